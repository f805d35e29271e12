/* Saved states of an attribution graph: saving, showing again and deleting one's own. */

import { button } from "./graph_panel.js";
import { saved } from "./graph_state.js";
import { ask } from "./transfer.js";
import { make } from "./steer_tokens.js";

export async function keeping(area, { state, load }) {
  const { api, model, slug } = area.dataset;
  const [form, list, told] = ["form", "ul", "[role=status]"].map((selector) => area.querySelector(selector));
  const address = { modelId: model, slug };
  const send = (what, json) => ask(`${api}/${what}`, { method: "POST", json });

  async function attempt(work) {
    told.textContent = "";
    try {
      await work();
      const { subgraphs } = await send("list", address);
      list.replaceChildren(...subgraphs.map(entry));
    } catch (error) {
      told.textContent = error.message;
    }
  }

  function entry(each) {
    const name = each.displayName || new Date(each.createdAt).toLocaleString();
    return make("li", "", make("span", "named", name), make("span", "small", `${each.pinnedIds.length} pinned`),
      button("Show", "plain", () => load(each)),
      button("Delete", "plain", () => attempt(() => send("delete", { subgraphId: each.id }))));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const displayName = new FormData(form).get("name").trim();
    attempt(async () => {
      await send("save", { ...address, ...saved(state()), displayName });
      form.reset();
    });
  });
  await attempt(async () => {});
}
