/* The code to embed a page with, as the boxes say, and the frame itself once the panel is open. */

const WAIT_MS = 300;

export function start(panel) {
  const [form, code, preview] = ["form", "#embed-code", "[data-preview]"].map((selector) => panel.querySelector(selector));
  const frame = new DOMParser().parseFromString(code.textContent, "text/html").querySelector("iframe");
  let waiting;

  function address() {
    const query = new URLSearchParams({ embed: "true" });
    for (const box of form?.querySelectorAll("[type=checkbox]") ?? []) if (!box.checked) query.set(box.name, "false");
    const text = form?.elements.defaulttesttext.value;
    if (text) query.set("defaulttesttext", text);
    return `${panel.dataset.page}?${query}`;
  }

  function write() {
    frame.setAttribute("src", address());
    if (form?.elements.height.checkValidity()) frame.setAttribute("height", form.elements.height.value);
    code.textContent = frame.outerHTML;
  }

  /* The page may be open under another name than the site's own, which its policy would not let in. */
  function show() {
    const shown = document.importNode(frame);
    const { pathname, search } = new URL(frame.getAttribute("src"));
    shown.src = pathname + search;
    preview.replaceChildren(shown);
  }

  panel.addEventListener("toggle", () => (panel.open ? show() : preview.replaceChildren()));
  form?.addEventListener("submit", (event) => event.preventDefault());
  form?.addEventListener("input", () => {
    write();
    clearTimeout(waiting);
    waiting = setTimeout(show, WAIT_MS);
  });
}
