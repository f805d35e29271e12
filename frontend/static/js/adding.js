/* The page where an SAE is handed over: files are sent as soon as they are chosen, what the server finds in them is shown,
   and the rest of the form says how they are to be hosted. */

import { fromInput, whenChosen } from "./dropped.js";
import { declared, named, options } from "./fields.js";
import { element, meter, row } from "./meter.js";
import { Transfer, ask } from "./transfer.js";

export function start(form) {
  const part = Object.fromEntries([...form.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const { api, hosting } = form.dataset;
  let transfer = null;
  let upload = null; // complete and checked

  function show(name, isShown = true) {
    part[name].hidden = !isShown;
  }

  function refuse(error) {
    show("problems", Boolean(error.problems?.length));
    part.problems.querySelector("ul").replaceChildren(...(error.problems ?? []).map((text) => element("li", text)));
    show("refusal", !error.problems?.length);
    part.refusal.textContent = error.message;
    part.declared.open ||= Boolean(error.problems?.length);
    show("recheck", Boolean(transfer));
  }

  async function attempt(work) {
    show("problems", false);
    show("refusal", false);
    try {
      await work();
    } catch (error) {
      refuse(error);
    }
  }

  async function choose(chosen) {
    if (!chosen.length) return;
    transfer?.pause();
    upload = null;
    part.host.disabled = true;
    show("found", false);
    show("awaited");
    await attempt(async () => {
      transfer = new Transfer(api, chosen, "sae", meter(part, chosen));
      await transfer.open();
      show("transfer");
      await go();
    });
  }

  async function go() {
    part.pause.textContent = "Pause";
    show("pause");
    if (!(await transfer.send())) return;
    part.speed.textContent = "checking";
    show("pause", false);
    await check();
  }

  async function check() {
    try {
      use(await ask(`${transfer.url}/complete`, { method: "POST", json: { declared: declared(form) } }));
      part.speed.textContent = "all here, and checked";
    } catch (error) {
      part.speed.textContent = "all here";
      throw error;
    }
  }

  function use(found) {
    upload = found;
    const cells = (sae) => [sae.folder, sae.architecture, sae.format, `${sae.d_in} × ${sae.d_sae.toLocaleString("en")}`, sae.hook_point];
    part.found.querySelector("tbody").replaceChildren(
      ...found.found.map((sae) => row(cells(sae))),
    );
    if (found.found.length === 1) part.source.placeholder = found.found[0].source;
    show("found");
    show("one", found.found.length === 1);
    show("recheck", false);
    show("awaited", false);
    part.host.disabled = false;
  }

  async function corpus() {
    const [kind, id] = part.corpus.value.split(":");
    if (kind === "id") return { id: Number(id) };
    if (kind !== "upload") return { [kind]: part[kind].value.trim() };
    const chosen = fromInput(part.text);
    if (!chosen.length) throw new Error("Choose a file with the text.");
    const text = new Transfer(api, chosen, "corpus", meter(part, chosen));
    await text.open();
    show("transfer");
    await text.send();
    await ask(`${text.url}/complete`, { method: "POST", json: {} });
    return { upload: text.upload.id, is_tokens: chosen[0].name.endsWith(".npy") };
  }

  async function host() {
    part.host.disabled = true;
    try {
      const model = part.model.value || { weights: part.weights.value.trim() };
      const wish = { model, ...(named(part) ?? { upload: upload.id }), source: part.one.hidden ? "" : part.source.value.trim(), corpus: await corpus(), options: options(form), replace: part.replace.checked };
      if (part.visibility) wish.visibility = part.visibility.value;
      if (!transfer || named(part)) wish.declared = declared(form);
      location.assign((await ask(hosting, { method: "POST", json: wish })).job_url);
    } finally {
      part.host.disabled = false;
    }
  }

  function arrange() {
    for (const option of part.corpus.querySelectorAll("[data-model]")) {
      option.hidden = option.disabled = option.dataset.model !== part.model.value;
      if (option.selected && option.disabled) part.corpus.value = "upload";
    }
    for (const each of form.querySelectorAll("[data-shown-for]")) {
      const [name, value] = each.dataset.shownFor.split("=");
      each.hidden = part[name].value !== value;
    }
    show("amount", !part.corpus.value.startsWith("id:")); // a prepared corpus has its length and context size
  }

  whenChosen(part, choose);
  part.pause.addEventListener("click", () => {
    if (transfer.isPaused) return attempt(go);
    transfer.pause();
    part.pause.textContent = "Go on";
    part.speed.textContent = "paused";
  });
  part.recheck.addEventListener("click", () => attempt(check));
  part.pending?.addEventListener("click", ({ target }) => attempt(async () => {
    if (target.dataset.use) use(await ask(`${api}/${target.dataset.use}`));
    if (!target.dataset.forget) return;
    await ask(`${api}/${target.dataset.forget}`, { method: "DELETE" });
    target.closest("li").remove();
  }));
  for (const each of [part.place, part.neurons]) each?.addEventListener("input", () => (part.host.disabled = !upload && !named(part)));
  form.addEventListener("change", arrange);
  form.addEventListener("submit", (event) => (event.preventDefault(), attempt(host)));
  arrange();
}
