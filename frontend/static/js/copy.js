/* Copies the text of the element a button names with aria-controls, and says so for a moment. */

const SAID_MS = 1500;

export function start(button) {
  const source = document.getElementById(button.getAttribute("aria-controls"));
  const label = button.textContent;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(source.textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), SAID_MS);
  });
}
