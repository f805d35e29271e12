/* Copies the text of the element a button names with aria-controls, and says so for a moment. */

const SAID_MS = 1500;

export function start(button) {
  const source = document.getElementById(button.getAttribute("aria-controls"));
  copies(button, () => source.textContent.trim());
}

/* A click copies what `text` gives. Where the browser lends pages no clipboard, as over plain HTTP, a link stays one. */
export function copies(element, text) {
  const label = element.textContent;
  element.addEventListener("click", async (event) => {
    if (!navigator.clipboard) return;
    event.preventDefault();
    await navigator.clipboard.writeText(text());
    element.textContent = "Copied";
    setTimeout(() => (element.textContent = label), SAID_MS);
  });
}
