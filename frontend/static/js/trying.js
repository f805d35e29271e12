/* Texts of the reader's own: each is asked about by itself and shown as a line above the examples, the newest on top.
   The address names them all, so it can be shared; those of the address the page came with are asked about at once. */

import { part } from "./ask.js";
import { copies } from "./copy.js";
import { submits } from "./fields.js";
import { original } from "./whitespace.js";

export function start(panel) {
  const [form, list, said] = ["form", "ol", "[role=status]"].map((selector) => panel.querySelector(selector));
  const field = form.elements.text;
  const link = panel.querySelector(".copies");
  const section = panel.closest("section.examples");
  const asking = new WeakMap(); // rows to what stops their question

  function url(base, texts) {
    const given = new URLSearchParams(texts.map((text) => ["text", text]));
    return texts.length ? `${base}?${given}` : base;
  }

  function noteAddress() {
    if (!link) return; // inside another page, whose address is not ours to change
    link.href = url(panel.dataset.page, [...list.children].map((row) => row.dataset.text));
    link.hidden = !list.children.length;
    history.replaceState(null, "", link.href);
  }

  function add(text) {
    for (const row of list.children) if (row.dataset.text === text) remove(row);
    const row = made("pending", text);
    list.prepend(row);
    noteAddress();
    ask(row);
  }

  async function ask(row) {
    const stop = new AbortController();
    asking.set(row, stop);
    row.ariaBusy = "true";
    const { text } = row.dataset;
    let fresh;
    try {
      fresh = await part(url(form.action, [text]), "[data-text]", stop.signal);
    } catch (error) {
      if (stop.signal.aborted) return;
      fresh = made("failed", text);
      fresh.dataset.said = fresh.querySelector(".why span").textContent = error.message;
    }
    row.replaceWith(fresh);
    fresh.dispatchEvent(new Event("shown", { bubbles: true }));
    said.textContent = fresh.dataset.said;
  }

  function made(kind, text) {
    const row = panel.querySelector(`[data-kind=${kind}]`).content.firstElementChild.cloneNode(true);
    row.dataset.text = row.querySelector(".text").textContent = text;
    return row;
  }

  function remove(row) {
    asking.get(row)?.abort();
    row.remove();
  }

  submits(form, field, () => {
    if (!field.value) return;
    add(field.value);
    field.select();
  });

  section.addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (event.target.closest("[data-remove]")) {
      const next = row.nextElementSibling ?? row.previousElementSibling;
      remove(row);
      noteAddress();
      (next?.querySelector("summary") ?? field).focus();
    } else if (event.target.closest("[data-again]")) ask(row);
    else if (event.target.closest("[data-try]")) take(row);
  });

  section.addEventListener("keydown", (event) => {
    const row = event.target.closest("summary")?.closest("li");
    if (!row || event.key !== "t" || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    take(row);
  });

  /* The whole text of a line, without the signs that stand for line breaks. */
  function take(row) {
    field.value = row.dataset.text ?? original(row.querySelector(".full"));
    field.focus();
    field.scrollIntoView({ block: "center" });
  }

  if (link) copies(link, () => link.href);
  for (const row of list.querySelectorAll("[aria-busy]")) ask(row);
}
