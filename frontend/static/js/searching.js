/* Search by text: asks for the results the form and the chosen tokens stand for, puts them in the place of those there
   are, and keeps the address telling which they are. Best examples are fetched when a line is opened. */

import { part } from "./ask.js";
import { copies } from "./copy.js";
import { submits } from "./fields.js";

export function start(area) {
  const [form, said] = ["form", "[role=status]"].map((selector) => area.querySelector(selector));
  const results = area.querySelector("[data-part=results]");
  const set = chosenSet();
  // of the results there are, where the page came with some: its own address may have been a form's
  const state = new URLSearchParams(results.querySelector(".copies")?.search ?? location.search);
  let stop = new AbortController();

  function chosenSet() {
    return form.querySelector("[name=set]:checked")?.value;
  }

  /* What the form says, without what is so by itself; the order and the kind of list are not in it. */
  function read() {
    for (const name of ["text", "set", "source", "bos", "dense"]) state.delete(name);
    for (const field of form.elements) {
      if (!field.name || field.name === "by" || (field.type !== "text" && field.type !== "textarea" && !field.checked)) continue;
      const isOfOtherSet = field.name === "source" && field.closest("fieldset").querySelector("[name=set]")?.value !== chosenSet();
      const isDefault = "default" in field.dataset && (field.type === "radio" || field.value === field.dataset.default);
      if (!isOfOtherSet && !isDefault) state.append(field.name, field.value);
    }
  }

  const address = (base) => (state.size ? `${base}?${state}` : base);
  let shown = location.search;

  function note(write) {
    history[write](null, "", address(area.dataset.page));
    shown = location.search;
  }

  async function ask() {
    stop.abort();
    stop = new AbortController();
    const { signal } = stop;
    results.ariaBusy = "true";
    let focused = "";
    try {
      const fresh = await part(address(form.action), "[data-part=results]", signal);
      focused = keyOf(document.activeElement);
      results.replaceChildren(...fresh.childNodes);
      said.textContent = fresh.dataset.said;
    } catch (error) {
      if (signal.aborted) return;
      const why = Object.assign(document.createElement("p"), { className: "problem", textContent: error.message });
      results.replaceChildren(why);
      said.textContent = error.message;
    }
    results.ariaBusy = null;
    arrived(focused);
  }

  function arrived(focused) {
    const tokens = results.querySelectorAll("[name=toggle]");
    tokens.forEach((token, at) => (token.tabIndex = at ? -1 : 0));
    const link = results.querySelector(".copies");
    if (link) copies(link, () => link.href);
    const again = focused && results.querySelector(focused);
    if (again) enter(again), again.focus();
    results.dispatchEvent(new Event("shown", { bubbles: true }));
  }

  /* How to find again what had the focus in results that were replaced. */
  function keyOf(element) {
    if (!results.contains(element)) return "";
    if (element.name === "toggle") return `[name=toggle][value="${element.value}"]`;
    if ("clear" in element.dataset) return "[name=toggle]";
    return element.dataset.by ? `[data-by=${element.dataset.by}]` : "";
  }

  /* Of the tokens one can be reached with Tab, the others from it with the arrow keys. */
  function enter(token) {
    if (token.name !== "toggle") return;
    results.querySelector("[name=toggle][tabindex='0']").tabIndex = -1;
    token.tabIndex = 0;
  }

  function toggle(token) {
    const isChosen = token.ariaPressed === "true";
    const others = state.getAll("sort").filter((each) => each !== token.value);
    const chosen = (isChosen ? others : [...others, token.value]).sort((a, b) => a - b);
    state.delete("sort");
    for (const each of chosen) state.append("sort", each);
    token.ariaPressed = String(!isChosen);
  }

  submits(form, form.elements.text, () => {
    if (!form.elements.text.value) return;
    const before = state.get("text");
    read();
    if (state.get("text") !== before) state.delete("sort");
    if (chosenSet() !== set) return location.assign(address(area.dataset.page)); // its scale may be another
    note("pushState");
    ask();
  });

  results.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const token = event.target.closest("[name=toggle]");
    const view = event.target.closest("[data-by]");
    const clears = event.target.closest("[data-clear]");
    if (!token && !view && !clears && !event.target.closest("[data-again]")) return;
    event.preventDefault();
    if (token) toggle(token);
    if (clears) state.delete("sort");
    if (view) state.delete("by");
    if (view && view.dataset.by !== "feature") state.set("by", view.dataset.by);
    note("replaceState");
    ask();
  });

  results.addEventListener("keydown", (event) => {
    const token = event.target.closest("[name=toggle]");
    if (!token || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...results.querySelectorAll("[name=toggle]")];
    const at = { ArrowLeft: all.indexOf(token) - 1, ArrowRight: all.indexOf(token) + 1, Home: 0, End: all.length - 1 }[event.key];
    if (!all[at]) return;
    event.preventDefault();
    enter(all[at]);
    all[at].focus();
  });

  results.addEventListener("toggle", (event) => event.target.open && showBest(event.target), { capture: true });
  addEventListener("popstate", () => location.search === shown || location.reload());
  if (state.get("text") && !results.querySelector(".lines, .problem")) ask();
  else arrived("");
}

/* The first example of the feature's page. */
async function showBest(details) {
  const place = details.querySelector("[data-example]");
  if (!place) return;
  const { example } = place.dataset;
  delete place.dataset.example;
  try {
    place.append(await part(example, ".examples .group details"));
    place.querySelector("[hidden]").hidden = false;
    place.dispatchEvent(new Event("shown", { bubbles: true }));
  } catch {
    place.dataset.example = example; // asked again when it is opened again; the link leads there too
  }
}
