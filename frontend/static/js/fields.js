/* What is filled in of what the files do not say, and of how to compute: {name: value}. Hidden fields do not count. */

function number(each) {
  const value = Number(each.value.replaceAll(/[ ,_]/g, ""));
  if (!Number.isInteger(value)) throw new Error(`${each.labels[0].textContent}: "${each.value}" is not a whole number, such as 200,000.`);
  return value;
}

const READ = { number, fact: (each) => each.value === "true", "": (each) => each.value.trim() };

export const declared = (form) => filled(form, "[data-declared]", (each) => [each.id, READ[each.dataset.declared](each)]);
export const options = (form) => filled(form, "[data-option]", (each) => [each.dataset.option, number(each)]);
/* What is named in place of files; null: nothing. */
export function named({ place, neurons }) {
  if (place?.value.trim()) return { weights: place.value.trim() };
  return neurons.value.trim() ? { neurons: neurons.value.trim() } : null;
}

function filled(form, selector, read) {
  return Object.fromEntries([...form.querySelectorAll(selector)].filter((each) => each.value.trim() && !each.closest("[hidden]")).map(read));
}

/* Enter sends a form's text field and Shift+Enter begins a new line in it; not while an input method composes. */
export function submits(form, field, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
}
