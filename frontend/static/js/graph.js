/* An attribution graph's page: fetches its file, and keeps what the reader makes of it in the address. */

import { chart, said } from "./graph_chart.js";
import { keyOf, read, visible } from "./graph_data.js";
import { list, panel } from "./graph_panel.js";
import { keeping } from "./graph_saved.js";
import * as states from "./graph_state.js";
import { subgraph } from "./graph_subgraph.js";
import { ask } from "./transfer.js";

const N_ASKED = 2000;

export async function start(area) {
  const part = Object.fromEntries([...area.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  let file;
  try {
    file = await ask(area.dataset.json);
  } catch (error) {
    part.said.textContent = error.message;
    return;
  }
  const graph = read(file);
  const state = states.read(new URLSearchParams(location.search), file, graph);
  const view = { graph, state, hosted: new Map(), shown: new Set(), pointed: "" };

  const note = () => history.replaceState(null, "", `?${states.write(view.state, new URLSearchParams(location.search))}`);
  const act = {
    choose: (id) => change({ ...view.state, clicked: id }, ["chart", "list"]),
    pin: (id) => change(states.togglePin(view.state, id)),
    group: (ids, name) => change(states.group(view.state, ids, name)),
    ungroup: (i) => change(states.ungroup(view.state, i)),
    move: (key, place) => change({ ...view.state, moved: new Map(view.state.moved).set(key, place) }, ["chart", "list"]),
    call: (id, name) => type(states.call(view.state, id, name), ["chart", "panel"]),
    rename: (i, name) => type(states.rename(view.state, i, name), ["chart", "entries"]),
    note,
    point(id) {
      if (id === view.pointed) return;
      view.pointed = id;
      drawn.light(view);
      tell();
    },
  };
  const drawn = chart(part.chart, act);
  const boxes = subgraph(part, act);

  function change(changed, kept) {
    view.state = changed;
    note();
    show(kept);
  }

  /* While somebody types or slides: browsers limit how often an address may change. What is typed into is kept as it is,
     so that a click which ends the typing finds its button. */
  function type(changed, kept) {
    view.state = changed;
    show(kept);
  }

  function tell() {
    const node = graph.nodes.get(view.pointed || view.state.clicked);
    part.said.textContent = node ? said(node, view) : "";
  }

  /* Draws everything but what is `kept`: chart (which is lit anew), list, panel, entries. */
  function show(kept = []) {
    const { pruning, density, pinned } = view.state;
    if (kept.includes("chart")) drawn.light(view);
    else {
      view.shown = visible(graph, { pruning, density, pinned }, view.hosted);
      const nLinks = drawn.draw(view);
      part.counts.textContent = `${view.shown.size} of ${graph.nodes.size} nodes, ${nLinks} of ${graph.links.length} links`;
    }
    part.pruning.value = pruning;
    part.pruned.textContent = pruning.toFixed(2);
    if (document.activeElement !== part.density) part.density.value = density ?? "";
    if (!kept.includes("panel")) panel(part.panel, view, act);
    if (part.list.open && !kept.includes("list")) list(part.list, view, act);
    boxes.draw(view, { areEntriesKept: kept.includes("entries") });
    tell();
  }

  part.pruning.addEventListener("input", () => type({ ...view.state, pruning: part.pruning.valueAsNumber }));
  part.density.addEventListener("input", () => {
    const value = part.density.valueAsNumber;
    type({ ...view.state, density: Number.isNaN(value) ? null : Math.min(1, Math.max(0, value)) });
  });
  for (const input of [part.pruning, part.density]) input.addEventListener("change", note);
  part.list.addEventListener("toggle", () => list(part.list, view, act));
  part.list.addEventListener("input", () => list(part.list, view, act));
  part.clear.addEventListener("click", () => change({ ...view.state, pinned: [], groups: [], clicked: "", moved: new Map() }));
  let width = part.chart.parentElement.clientWidth;
  new ResizeObserver(() => {
    if (part.chart.parentElement.clientWidth === width) return;
    width = part.chart.parentElement.clientWidth;
    show();
  }).observe(part.chart.parentElement);

  show();
  area.dataset.state = "shown";
  if (part.saved) keeping(part.saved, { state: () => view.state, load: (each) => change(states.ofSaved(each, graph)) });
  await know();

  /* What this site knows of the graph's features. */
  async function know() {
    const wanted = new Map([...graph.nodes.values()].filter(({ index }) => index !== null).map((node) => [keyOf(node), node]));
    const asked = [...wanted.values()].map(({ layer, index }) => ({ layer, index }));
    const { model, slug, features } = area.dataset;
    try {
      for (let first = 0; first < asked.length; first += N_ASKED) {
        const json = { modelId: model, slug, features: asked.slice(first, first + N_ASKED) };
        const told = await ask(features, { method: "POST", json });
        for (const each of told.features) view.hosted.set(keyOf(each), each);
      }
    } catch (error) {
      part.counts.textContent += `. Features: ${error.message}`;
    }
    if (view.hosted.size) show();
    area.dataset.state = "known";
  }
}
