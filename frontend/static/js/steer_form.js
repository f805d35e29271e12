/* What is chosen on the page of steering: as the API takes it, as the address holds it, in a line of words. */

const RECONSTRUCT = "RECONSTRUCT";
const SAMPLING = { n_tokens: "tokens", temperature: "temperature", top_p: "top-p", freq_penalty: "penalty", seed: "seed" };
const N_ALTERNATIVES = 5;

function pushes(form) {
  return [...form.querySelectorAll("[data-push]")].map((card) => {
    const [source, index] = card.dataset.push.split("/");
    return { source, index: Number(index), strength: Number(card.querySelector("[data-strength]").value), method: card.querySelector("[data-method]").value };
  });
}

const through = (form) => [...form.querySelectorAll("[name=through]:checked")].map(({ value }) => value);

/* Of a text, or of {default, steered} messages of a chat. */
export function body(form, given) {
  const modelId = form.dataset.model;
  const features = [
    ...pushes(form).map(({ source, index, strength, method }) => ({ modelId, layer: source, index, strength, method })),
    ...through(form).map((source) => ({ modelId, layer: source, index: 0, strength: 0, method: RECONSTRUCT })),
  ];
  const sampling = Object.fromEntries(Object.keys(SAMPLING).map((name) => [name, Number(form.elements[name].value)]));
  const chat = () => ({ defaultChatMessages: given.default, steeredChatMessages: given.steered, steer_special_tokens: form.elements.special.checked });
  const asked = typeof given === "string" ? { prompt: given } : chat();
  return { modelId, features, ...asked, ...sampling, strength_multiplier: 1, n_logprobs: N_ALTERNATIVES, stream: true };
}

/* Why it cannot be run, after leading to the field that is wrong; empty: it can. */
export function firstProblem(form, prompt) {
  const field = form.querySelector("input:invalid");
  if (field) {
    for (let outer = field.closest("details"); outer; outer = outer.parentElement.closest("details")) outer.open = true;
    field.focus();
    return `${field.labels[0]?.textContent ?? field.ariaLabel}: ${field.validationMessage}`;
  }
  if (prompt.trim()) return "";
  form.elements.prompt.focus();
  return "There is no text to go on with. Write some first.";
}

/* `first` is a chat's first message, which the field no longer holds. */
export function address(form, first) {
  const usual = form.querySelector("[data-method] option")?.value;
  const query = new URLSearchParams();
  for (const { source, index, strength, method } of pushes(form))
    query.append("feature", `${source}/${index}:${strength}${method === usual ? "" : `:${method}`}`);
  for (const source of through(form)) query.append("through", source);
  if (form.elements.mode.value === "chat") {
    query.set("mode", "chat");
    if (form.elements.system.value) query.set("system", form.elements.system.value);
    if (!form.elements.special.checked) query.set("special", "0");
  }
  const prompt = first || form.elements.prompt.value;
  if (prompt) query.set("prompt", prompt);
  for (const name of Object.keys(SAMPLING)) {
    const { value, dataset } = form.elements[name];
    if (value !== dataset.default) query.set(name, value);
  }
  const text = query.toString().replaceAll("%2F", "/").replaceAll("%3A", ":");
  return form.dataset.page + (text && `?${text}`);
}

export const gist = (form) => Object.entries(SAMPLING).map(([name, title]) => `${title} ${form.elements[name].value}`).join(", ");
