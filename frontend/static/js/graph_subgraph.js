/* The pinned nodes by themselves: boxes to drag, choose and group, and the sums of the links between them. */

import { clipped, svg } from "./graph_chart.js";
import { linksBetween, nameOf } from "./graph_data.js";
import { BOX, boxesLayout, curve, stroke } from "./graph_layout.js";
import { button, signed } from "./graph_panel.js";
import { groupKey } from "./graph_state.js";
import { make } from "./steer_tokens.js";

const N_LETTERS = 21;
const CLICK = 4;
const STEPS = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] };

export function subgraph(part, act) {
  const { boxes: drawing, pinned: list, group: form } = part;
  const chosen = new Set();
  let view;
  let places = new Map();

  const boxesOf = ({ graph, state, hosted }) => {
    const grouped = new Set(state.groups.flatMap(({ ids }) => ids));
    const nodes = (ids) => ids.map((id) => graph.nodes.get(id));
    const groups = state.groups.map(({ name, ids }, i) => ({ key: groupKey(i), i, ids, name, nodes: nodes(ids) }));
    const single = state.pinned.filter((id) => !grouped.has(id));
    return [...groups, ...single.map((id) => ({ key: id, ids: [id], nodes: nodes([id]), name: nameOf(graph.nodes.get(id), state.clerps, hosted) }))];
  };

  function draw(shown, { areEntriesKept = false } = {}) {
    view = shown;
    const boxes = boxesOf(view);
    part.subgraph.hidden = boxes.length === 0;
    if (!boxes.length) return chosen.clear();
    for (const key of chosen) if (!boxes.some((box) => box.key === key)) chosen.delete(key);
    const room = Math.max(300, drawing.parentElement.clientWidth);
    places = boxesLayout(boxes, view.state.moved, room);
    size(room);
    const links = linksBetween(view.graph, boxes);
    const strongest = Math.abs(links[0]?.weight ?? 1);
    drawing.replaceChildren(
      svg("g", { class: "lit" }, ...links.map(({ source, target, weight }) => svg("path", {
        class: weight < 0 ? "negative" : "positive", "data-link": JSON.stringify([source, target]), "stroke-width": stroke(weight, strongest).toFixed(2),
      }, svg("title", {}, `${signed(weight)} in sum`)))),
      ...boxes.map(drawBox),
    );
    route();
    if (!areEntriesKept) list.replaceChildren(...boxes.map(entry));
    marked();
  }

  function size(room) {
    const bottom = Math.max(...[...places.values()].map(([, y]) => y)) + BOX.height;
    drawing.setAttribute("width", room);
    drawing.setAttribute("height", bottom);
  }

  function route() {
    const half = BOX.height / 2;
    for (const path of drawing.querySelectorAll("[data-link]")) {
      const [[x1, y1], [x2, y2]] = JSON.parse(path.dataset.link).map((key) => places.get(key));
      const isBehind = Math.abs(x1 - x2) < BOX.width / 2 && y1 - y2 > 3 * BOX.height; // of a box in between
      path.setAttribute("d", curve([x1, y1 - half], [x2, y2 + half], isBehind ? -0.8 * BOX.width : 0));
    }
  }

  function drawBox(box) {
    const node = box.nodes[0];
    const title = box.ids.length > 1 ? `${box.name} (${box.ids.length} nodes)` : box.name;
    const made = svg("g", { class: `box ${box.i === undefined ? node.type : "group"}`, tabindex: 0, role: "button", "aria-label": title, "data-box": box.key },
      svg("rect", { x: -BOX.width / 2, y: -BOX.height / 2, width: BOX.width, height: BOX.height, rx: 4 }),
      svg("text", { "text-anchor": "middle", y: 4 }, clipped(title, N_LETTERS)), svg("title", {}, title));
    const put = () => made.setAttribute("transform", `translate(${places.get(box.key).join(" ")})`);
    put();
    let from = null;
    made.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, place: places.get(box.key), isMoved: false };
      made.setPointerCapture(event.pointerId);
    });
    made.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      from.isMoved ||= Math.hypot(dx, dy) > CLICK;
      if (from.isMoved) move(from.place, dx, dy);
    });
    made.addEventListener("pointerup", () => {
      if (from?.isMoved) act.move(box.key, places.get(box.key));
      else if (from) toggle(box.key);
      from = null;
    });
    made.addEventListener("pointercancel", () => (from = null));
    made.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (step) move(places.get(box.key), ...step), act.move(box.key, places.get(box.key)), drawing.querySelector(`[data-box="${CSS.escape(box.key)}"]`).focus();
      else if (event.key === "Enter" || event.key === " ") toggle(box.key);
      else return;
      event.preventDefault();
    });
    function move([x, y], dx, dy) {
      const most = drawing.getAttribute("width") - BOX.width / 2;
      places.set(box.key, [Math.min(most, Math.max(BOX.width / 2, x + dx)), Math.max(BOX.height / 2, y + dy)].map(Math.round));
      put(), route(), size(drawing.getAttribute("width"));
    }
    return made;
  }

  function entry(box) {
    const check = make("input", "");
    Object.assign(check, { type: "checkbox", value: box.key });
    check.addEventListener("change", () => toggle(box.key));
    const word = make("span", "", box.name);
    const label = make("label", "named", check, " ", word);
    if (box.i === undefined)
      return make("li", "", label, button("Show", "plain", () => act.choose(box.key)), button("Unpin", "plain", () => act.pin(box.key)));
    const name = make("input", "");
    Object.assign(name, { type: "text", value: box.name, maxLength: 200, ariaLabel: `name of the group ${box.name}` });
    name.addEventListener("input", () => {
      word.textContent = name.value.trim() || box.name;
      act.rename(box.i, word.textContent);
    });
    name.addEventListener("change", act.note);
    return make("li", "", label, make("span", "small", `${box.ids.length} nodes`), name, button("Ungroup", "plain", () => act.ungroup(box.i)));
  }

  function toggle(key) {
    if (!chosen.delete(key)) chosen.add(key);
    marked();
  }

  function marked() {
    for (const box of drawing.querySelectorAll("[data-box]")) box.setAttribute("aria-pressed", String(chosen.has(box.dataset.box)));
    for (const check of list.querySelectorAll("input[type=checkbox]")) check.checked = chosen.has(check.value);
    form.querySelector("button").disabled = chosen.size < 2;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const boxes = boxesOf(view).filter((box) => chosen.has(box.key));
    const input = form.querySelector("input");
    chosen.clear();
    act.group(boxes.flatMap((box) => box.ids), input.value.trim() || boxes[0].name);
    input.value = "";
  });
  return { draw };
}
