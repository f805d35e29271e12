/* Shows spaces and line breaks in the examples while a box is checked; the choice is kept. Spaces become middle dots,
   as wide in a monospace face, so nothing moves. */

const KEY = "shows-spaces";

export function start(box) {
  const section = box.closest("section");

  function apply() {
    section.classList.toggle("shows-spaces", box.checked);
    const [from, to] = box.checked ? [" ", "·"] : ["·", " "];
    for (const text of texts(section)) {
      if (box.checked) text.spaced ??= text.data;
      text.data = box.checked ? text.data.replaceAll(from, to) : (text.spaced ?? text.data);
    }
  }

  const kept = storage();
  box.addEventListener("change", () => {
    kept?.setItem(KEY, box.checked ? "1" : "");
    apply();
  });
  section.addEventListener("shown", () => box.checked && apply());
  if (kept?.getItem(KEY)) {
    box.checked = true;
    apply();
  }
}

/* Null where the browser lends none, as to a page inside another site's. */
function storage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

/* The text of an element as it was before its spaces were shown, without the signs that stand for line breaks. */
export function original(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let text = "";
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest("i")) text += walker.currentNode.spaced ?? walker.currentNode.data;
  return text;
}

function* texts(section) {
  for (const part of section.querySelectorAll(".before, .after, .full")) {
    const walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) yield walker.currentNode;
  }
}
