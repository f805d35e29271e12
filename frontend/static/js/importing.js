/* The page where dashboards are handed over that another tool made: files are sent as soon as they are chosen and checked
   by the server; then a job reads and stores them. */

import { inExport, whenChosen } from "./dropped.js";
import { element, meter } from "./meter.js";
import { Transfer, ask } from "./transfer.js";

const ADDRESS = /^(https?|s3):\/\//;

export function start(form) {
  const part = Object.fromEntries([...form.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const { api, imports, jobs } = form.dataset;
  let transfer = null;
  let upload = null; // complete and checked

  const show = (name, isShown = true) => (part[name].hidden = !isShown);
  const place = () => part.place?.value.trim() ?? "";

  function arrange() {
    part.begin.disabled = !upload && !place();
    show("awaited", part.begin.disabled);
  }

  async function attempt(work) {
    show("problems", false);
    show("refusal", false);
    try {
      await work();
    } catch (error) {
      show("problems", Boolean(error.problems?.length));
      part.problems.querySelector("ul").replaceChildren(...(error.problems ?? []).map((text) => element("li", text)));
      show("refusal", !error.problems?.length);
      part.refusal.textContent = error.message;
    }
    arrange();
  }

  async function choose(chosen) {
    if (!chosen.length) return;
    transfer?.pause();
    upload = null;
    arrange();
    await attempt(async () => {
      transfer = new Transfer(api, chosen, "dashboards", meter(part, chosen));
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
    try {
      upload = await ask(`${transfer.url}/complete`, { method: "POST", json: {} });
      part.speed.textContent = "all here, and checked";
    } catch (error) {
      part.speed.textContent = "all here";
      throw error;
    }
  }

  async function begin() {
    part.begin.disabled = true;
    const from = place() ? { [ADDRESS.test(place()) ? "url" : "folder"]: place() } : { upload: upload.id };
    const wish = { ...from, model: part.model.value.trim(), source: part.source.value.trim(), replace: part.replace.checked };
    if (part.visibility?.value) wish.visibility = part.visibility.value;
    const begun = await ask(imports, { method: "POST", json: wish });
    location.assign(begun.length === 1 ? begun[0].job_url : jobs);
  }

  whenChosen(part, choose, inExport);
  part.pause.addEventListener("click", () => {
    if (transfer.isPaused) return attempt(go);
    transfer.pause();
    part.pause.textContent = "Go on";
    part.speed.textContent = "paused";
  });
  part.pending?.addEventListener("click", ({ target }) => attempt(async () => {
    if (target.dataset.use) upload = await ask(`${api}/${target.dataset.use}`);
    if (!target.dataset.forget) return;
    await ask(`${api}/${target.dataset.forget}`, { method: "DELETE" });
    if (upload?.id === target.dataset.forget) upload = null;
    target.closest("li").remove();
  }));
  part.place?.addEventListener("input", arrange);
  form.addEventListener("submit", (event) => (event.preventDefault(), attempt(begin)));
}
