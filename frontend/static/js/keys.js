/* Keys: an element with data-key="j" is clicked, or focused if text is typed into it, when j is pressed.
   The dialog this starts on lists them; `?` and buttons with data-opens show it. */

const typesText = (element) =>
  element instanceof HTMLTextAreaElement ||
  (element instanceof HTMLInputElement && !["checkbox", "radio"].includes(element.type));

export function start(dialog) {
  for (const button of document.querySelectorAll(`[data-opens="${dialog.id}"]`))
    button.addEventListener("click", () => dialog.showModal());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    if (typesText(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "?") dialog.showModal();
    else if (!press(event.key)) return;
    event.preventDefault();
  });
}

function press(key) {
  const element = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!element) return false;
  if (typesText(element)) element.select(), element.focus();
  else element.click();
  return true;
}
