/* What is known of the chosen node, its links by strength, and the list of all nodes that are shown. */

import { keyOf, nameOf } from "./graph_data.js";
import { oneLine } from "./graph_chart.js";
import { make, signs } from "./steer_tokens.js";

const N_LINKS = 30;
const N_LISTED = 100;
const TYPES = { feature: "feature", error: "error", embedding: "token", logit: "logit" };
const FILTER = "input[type=search]";

export const signed = (value) =>
  (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3)).replaceAll("-", "−");

export function button(text, className, press) {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", press);
  return made;
}

/* Fills the side panel; `act` has choose, point, pin and call. */
export function panel(element, view, act) {
  const { graph, state, shown, hosted } = view;
  const node = graph.nodes.get(state.clicked);
  if (!node) return element.replaceChildren(make("p", "none", "Choose a node to see its links and its feature."));
  const hadFocus = element.contains(document.activeElement);
  const isPinned = state.pinned.includes(node.id);
  const pin = button(isPinned ? "Unpin" : "Pin", "plain", () => act.pin(node.id));
  const heading = make("h2", "named", nameOf(node, state.clerps, hosted));
  const close = button("Close", "plain", () => act.choose(""));
  element.replaceChildren(
    heading,
    facts(node, graph),
    ...known(hosted.get(keyOf(node))),
    named(node, view, act, heading),
    make("p", "graph-acts", pin, " ", close),
    ...linked("Inputs", node.inputs, view, act, shown),
    ...linked("Outputs", node.outputs, view, act, shown),
  );
  if (hadFocus) element.focus();
}

function facts(node, graph) {
  const rows = [
    ["node", TYPES[node.type]],
    ["layer", node.type === "feature" || node.type === "error" ? String(node.layer) : null],
    ["feature", node.index === null ? null : String(node.index)],
    ["token", `${node.position} ${oneLine(JSON.stringify(graph.tokens[node.position] ?? ""))}`],
    ["activation", node.activation === null ? null : signed(node.activation)],
    ["probability", node.probability === null ? null : node.probability.toFixed(3)],
    ["influence", node.influence === null ? null : node.influence.toFixed(3)],
  ];
  const told = rows.filter(([, value]) => value !== null);
  return make("dl", "numbers", ...told.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))));
}

/* Of a feature that is hosted here. */
function known(feature) {
  if (!feature) return [];
  const link = make("a", "", `${feature.source}/${feature.index}`);
  link.href = feature.url;
  if (window !== window.top) link.target = "_blank"; // the page itself may not be framed
  const tokens = (texts) => texts.flatMap((text) => [make("span", "token", ...signs(text)), " "]);
  const rows = [["dashboard", [link]], ["fires on", tokens(feature.firesOn)], ["promotes", tokens(feature.promotes)], ["density", [`${(100 * feature.density).toPrecision(3)} %`]]];
  return [make("dl", "graph-feature", ...rows.filter(([, value]) => value.length).map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", ...value))))];
}

function named(node, view, act, heading) {
  const input = make("input", "");
  Object.assign(input, { type: "text", maxLength: 200, placeholder: "a name of your own", value: view.state.clerps.get(node.id) ?? "" });
  input.addEventListener("input", () => {
    act.call(node.id, input.value.trim());
    heading.textContent = nameOf(node, view.state.clerps, view.hosted);
  });
  input.addEventListener("change", act.note);
  return make("label", "graph-name", make("span", "small", "name"), input);
}

function linked(title, links, view, act, shown) {
  const there = links.filter(({ node }) => shown.has(node.id));
  const strongest = Math.abs(there[0]?.weight ?? 1) || 1;
  const rows = there.slice(0, N_LINKS).map(({ node, weight }) => {
    const value = make("span", "value", signed(weight));
    const bar = make("meter", weight < 0 ? "negative" : "positive");
    Object.assign(bar, { max: strongest, value: Math.abs(weight), ariaHidden: "true" });
    const row = button("", "graph-link", () => act.choose(node.id));
    row.append(make("span", "graph-word", nameOf(node, view.state.clerps, view.hosted)), make("span", "small", place(node)), value, bar);
    row.addEventListener("pointerenter", () => act.point(node.id));
    row.addEventListener("pointerleave", () => act.point(""));
    row.addEventListener("focus", () => act.point(node.id));
    row.addEventListener("blur", () => act.point(""));
    return make("li", "", row);
  });
  const more = there.length > N_LINKS ? ` strongest ${N_LINKS} of ${there.length}` : ` ${there.length}`;
  return [make("h3", "", title, make("span", "label", more)), make("ol", "graph-links", ...rows)];
}

const place = (node) => (node.type === "embedding" ? `token ${node.position}` : node.type === "logit" ? "" : `L${node.layer} · ${node.position}`);

/* The list that is there for keyboards and screen readers: those of the shown nodes whose name has the text in it. */
export function list(element, view, act) {
  const input = element.querySelector(FILTER);
  const wanted = input.value.trim().toLowerCase();
  const found = [];
  let n = 0;
  for (const id of view.shown) {
    const node = view.graph.nodes.get(id);
    const name = nameOf(node, view.state.clerps, view.hosted);
    if (wanted && !`${name} ${id}`.toLowerCase().includes(wanted)) continue;
    if (n++ < N_LISTED) found.push(make("li", "", button(`${name} · ${place(node) || "logit"}`, "graph-link", () => act.choose(id))));
  }
  element.querySelector("ol").replaceChildren(...found);
  element.querySelector("[data-part=listed]").textContent = n > N_LISTED ? `${N_LISTED} of ${n}` : String(n);
}
