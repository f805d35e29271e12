/* The files of a drop or a choice, each as {name, file}. What file managers leave beside files is left out. */

/* Calls `choose` with the files whenever some are dropped on `part.drop` or chosen in `part.files` or `part.folder`. */
export function whenChosen(part, choose, naming = inFolder) {
  part.drop.addEventListener("dragover", (event) => (event.preventDefault(), (part.drop.dataset.over = "")));
  part.drop.addEventListener("dragleave", () => delete part.drop.dataset.over);
  part.drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    delete part.drop.dataset.over;
    choose(await fromDrop(event.dataTransfer, naming));
  });
  for (const name of ["files", "folder"]) part[name].addEventListener("change", () => choose(fromInput(part[name], naming)));
}

export function fromInput(input, naming = inFolder) {
  return named([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })), naming);
}

/* Names keep the last folder each file lies in. */
export const inFolder = (paths) => paths.map((path) => path.split("/").slice(-2).join("/"));

/* Names are below the folder that all share, where some files lie deeper than in it: that of an export. */
export function inExport(paths) {
  let found = paths;
  const roots = () => new Set(found.map((path) => path.split("/")[0]));
  while (found.some((path) => path.split("/").length > 2) && roots().size === 1) found = found.map((path) => path.slice(path.indexOf("/") + 1));
  return found;
}

async function fromDrop(transfer, naming) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return named([...transfer.files].map((file) => ({ path: file.name, file })), naming);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return named(found, naming);
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

function named(found, naming) {
  const kept = found.filter(({ path }) => !path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX"));
  const names = naming(kept.map(({ path }) => path));
  return kept.map(({ file }, i) => ({ name: names[i], file })).sort((a, b) => (a.name < b.name ? -1 : 1));
}
