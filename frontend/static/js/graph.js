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
    choose: (id) => change({ ...view.state, clicked: id }, { isShownAlike: true }),
    pin: (id) => change(states.togglePin(view.state, id)),
    call: (id, name) => change(states.call(view.state, id, name)),
    group: (ids, name) => change(states.group(view.state, ids, name)),
    ungroup: (i) => change(states.ungroup(view.state, i)),
    rename: (i, name) => change(states.rename(view.state, i, name)),
    move: (key, place) => change({ ...view.state, moved: new Map(view.state.moved).set(key, place) }, { isShownAlike: true }),
    point(id) {
      if (id === view.pointed) return;
      view.pointed = id;
      drawn.light(view);
      tell();
    },
  };
  const drawn = chart(part.chart, act);
  const boxes = subgraph(part, act);

  function change(changed, { isShownAlike = false } = {}) {
    view.state = changed;
    note();
    show({ isShownAlike });
  }

  function tell() {
    const node = graph.nodes.get(view.pointed || view.state.clicked);
    part.said.textContent = node ? said(node, view) : "";
  }

  function show({ isShownAlike = false } = {}) {
    const { pruning, density, pinned } = view.state;
    if (isShownAlike) drawn.light(view);
    else {
      view.shown = visible(graph, { pruning, density, pinned }, view.hosted);
      const nLinks = drawn.draw(view);
      part.counts.textContent = `${view.shown.size} of ${graph.nodes.size} nodes, ${nLinks} of ${graph.links.length} links`;
    }
    part.pruning.value = pruning;
    part.pruned.textContent = pruning.toFixed(2);
    part.density.value = density ?? "";
    panel(part.panel, view, act);
    if (part.list.open) list(part.list, view, act);
    boxes.draw(view);
    tell();
  }

  part.pruning.addEventListener("input", () => {
    view.state = { ...view.state, pruning: part.pruning.valueAsNumber };
    show();
  });
  part.pruning.addEventListener("change", note); // browsers limit how often an address may change
  part.density.addEventListener("change", () => {
    const value = part.density.valueAsNumber;
    change({ ...view.state, density: Number.isNaN(value) ? null : Math.min(1, Math.max(0, value)) });
  });
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
