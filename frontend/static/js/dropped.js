/* The files of a drop or a choice, each as {name, file}: the name keeps the last folder it lies in. What file managers
   leave beside files is left out. */

export async function fromDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return named([...transfer.files].map((file) => ({ path: file.name, file })));
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return named(found);
}

export function fromInput(input) {
  return named([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
}

async function walk(entry, found) {
  if (entry.isFile) {
    found.push({ path: entry.fullPath.slice(1), file: await new Promise((done, fail) => entry.file(done, fail)) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail)); // at most a hundred at a time
    if (!some.length) return;
    for (const each of some) await walk(each, found);
  }
}

function named(found) {
  return found
    .filter(({ path }) => !path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX"))
    .map(({ path, file }) => ({ name: path.split("/").slice(-2).join("/"), file }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}
