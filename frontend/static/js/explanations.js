/* Explanations of a feature: a form is sent aside, and what its page says afterwards takes the panel's place. What is being
   written elsewhere in the panel stays, and the focus goes back to where it was. */

import { part } from "./ask.js";

export function start(panel) {
  const headline = document.querySelector(".headline");

  panel.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (panel.ariaBusy === "true") return;
    const form = event.target;
    const body = new URLSearchParams(new FormData(form));
    panel.ariaBusy = "true";
    try {
      const fresh = await part(form.action, "[data-part=explanations]", undefined, { method: "POST", body });
      show(fresh, form.dataset.form);
    } catch (error) {
      panel.querySelector("[role=status]").textContent = error.message;
    }
    panel.ariaBusy = null;
  });

  function show(fresh, sent) {
    const written = panel.querySelector("#explanation").value;
    panel.replaceChildren(...fresh.childNodes);
    const field = panel.querySelector("#explanation");
    if (sent !== "add") field.value = written;
    const again = panel.querySelector(`[data-form="${CSS.escape(sent)}"] button`);
    (sent.startsWith("vote-") && again ? again : field).focus();
    headline.textContent = fresh.dataset.headline;
    headline.hidden = !fresh.dataset.headline;
  }
}
