/* Draws an attribution graph: nodes by token and layer, the strongest links faintly behind them, and those of the node
   pointed at or chosen in front. The arrows walk from node to node, Enter chooses, p pins. */

import { keyOf, nameOf, shownLinks } from "./graph_data.js";
import { MARGIN, ROW, curve, layout, nearest, neighbour, stroke } from "./graph_layout.js";

const N_BEHIND = 1200;
const N_LIT = 400;
const REACH = 12;
const SHAPES = {
  feature: "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1-4 0",
  error: "M0-4.6L4.6 0L0 4.6L-4.6 0Z",
  embedding: "M-3.6-3.6H3.6V3.6H-3.6Z",
  logit: "M0-5L4.8 3.8H-4.8Z",
};
const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

export function svg(name, attributes = {}, ...content) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

/* What a token looks like in one line. */
export const oneLine = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");

export function chart(element, { point, choose, pin }) {
  const layers = Object.fromEntries(["grid", "behind", "lit", "nodes"].map((name) => [name, svg("g", { class: name })]));
  element.append(...Object.values(layers));
  let places = new Map();
  let marks = new Map();
  let at = "";

  function atPoint(event) {
    const box = element.getBoundingClientRect();
    return nearest(places, event.clientX - box.left, event.clientY - box.top, REACH);
  }

  /* Everything: after pruning, pinning, or a change of size. */
  function draw(view) {
    const { graph, shown, hosted } = view;
    const placed = layout(graph, shown, element.parentElement.clientWidth);
    places = placed.places;
    for (const [name, value] of [["width", placed.width], ["height", placed.height], ["viewBox", `0 0 ${placed.width} ${placed.height}`]])
      element.setAttribute(name, value);
    layers.grid.replaceChildren(...grid(placed, graph.tokens));
    const { n, strongest } = shownLinks(graph, shown, N_BEHIND);
    const drawn = (isOf) => strongest.filter(({ weight }) => isOf(weight)).map(({ source, target }) => curve(places.get(source.id), places.get(target.id))).join("");
    layers.behind.replaceChildren(
      svg("path", { class: "positive", d: drawn((weight) => weight >= 0) }),
      svg("path", { class: "negative", d: drawn((weight) => weight < 0) }),
    );
    marks = new Map();
    for (const [id, [x, y]] of places) {
      const { type } = graph.nodes.get(id);
      const isHosted = hosted.has(keyOf(graph.nodes.get(id)));
      marks.set(id, svg("path", { class: `node ${type}${isHosted ? " hosted" : ""}`, d: SHAPES[type], transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "data-node": id }));
    }
    layers.nodes.replaceChildren(...marks.values());
    light(view);
    return n;
  }

  /* The links of the node pointed at, or else of the one chosen. */
  function light({ graph, state, pointed }) {
    at = pointed || state.clicked;
    const node = graph.nodes.get(at);
    const isLit = places.has(at);
    element.classList.toggle("has-lit", isLit);
    for (const mark of marks.values()) mark.classList.remove("positive", "negative", "is-at", "is-clicked", "is-pinned");
    for (const id of state.pinned) marks.get(id)?.classList.add("is-pinned");
    marks.get(state.clicked)?.classList.add("is-clicked");
    if (!isLit) return layers.lit.replaceChildren();
    marks.get(at).classList.add("is-at");
    const links = [...node.inputs.map((link) => [link, link.node.id, at]), ...node.outputs.map((link) => [link, at, link.node.id])]
      .filter(([{ node }]) => places.has(node.id))
      .sort(([one], [other]) => Math.abs(other.weight) - Math.abs(one.weight))
      .slice(0, N_LIT);
    const strongest = Math.abs(links[0]?.[0].weight ?? 1);
    for (const [{ node, weight }] of links) marks.get(node.id).classList.add(weight < 0 ? "negative" : "positive");
    layers.lit.replaceChildren(...links.reverse().map(([{ weight }, source, target]) =>
      svg("path", { class: weight < 0 ? "negative" : "positive", d: curve(places.get(source), places.get(target)), "stroke-width": stroke(weight, strongest).toFixed(2) })));
  }

  element.addEventListener("pointermove", (event) => point(atPoint(event) ?? ""));
  element.addEventListener("pointerleave", () => point(""));
  element.addEventListener("click", (event) => {
    const id = atPoint(event);
    if (id && (event.shiftKey || event.metaKey || event.ctrlKey)) pin(id);
    else choose(id ?? "");
  });
  element.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (direction) point((places.has(at) ? neighbour(places, at, direction) : places.keys().next().value) ?? at);
    else if (event.key === "Enter" && at) choose(at);
    else if (event.key === "p" && at) pin(at);
    else return;
    event.preventDefault();
  });
  return { draw, light };
}

function grid({ rows, columns, width, height }, tokens) {
  const bottom = height - MARGIN.bottom;
  const lines = rows.flatMap(({ y, name }) => [
    svg("line", { class: "row", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
    svg("text", { class: "name", x: MARGIN.left - 8, y: y + 3.5, "text-anchor": "end" }, name),
  ]);
  const bands = columns.flatMap(({ x, width: wide, position }) => [
    svg("line", { class: "column", x1: x + wide / 2, x2: x + wide / 2, y1: MARGIN.top - ROW / 4, y2: bottom + 4 }),
    svg("text", { class: "token", transform: `translate(${x.toFixed(1)} ${bottom + 12}) rotate(-38)`, "text-anchor": "end" },
      svg("title", {}, `token ${position}: ${tokens[position] ?? ""}`), clipped(oneLine(tokens[position] ?? ""), 12)),
  ]);
  return [...lines, ...bands];
}

export const clipped = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/* One line about a node. */
export function said(node, { graph, state, hosted }) {
  const parts = [nameOf(node, state.clerps, hosted)];
  if (node.type === "feature" || node.type === "error") parts.push(`layer ${node.layer}`);
  parts.push(`token ${node.position} ${oneLine(JSON.stringify(graph.tokens[node.position] ?? ""))}`);
  if (node.influence !== null) parts.push(`influence ${node.influence.toFixed(2)}`);
  return parts.join(" · ");
}
