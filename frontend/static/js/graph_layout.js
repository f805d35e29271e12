/* Where the nodes of an attribution graph stand. Pure: numbers in, numbers out, all in CSS pixels.

   Tokens are columns, from left to right; layers are rows, embeddings at the bottom and logits on top. Nodes of one token
   and layer stand side by side, and a column is as wide as its fullest row needs, as far as there is room. */

export const ROW = 19;
export const MARGIN = { left: 50, right: 14, top: 12, bottom: 74 };
const STEP = 11;
const LEAST_STEP = 4;
const LEAST_COLUMN = 22;
const LEAST_WIDTH = 560;

const rowOf = (node) => (node.type === "embedding" ? -Infinity : node.type === "logit" ? Infinity : node.layer);
const nameOfRow = (row) => (row === -Infinity ? "embed" : row === Infinity ? "logit" : String(row));

/* {width, height, places: id → [x, y], columns: [{x, width, position}], rows: [{y, name}]}. Rows and columns are those of
   the whole graph, so that nothing jumps while it is pruned; places are those of the nodes in `shown`. */
export function layout(graph, shown, room) {
  const all = [...graph.nodes.values()];
  const order = [...new Set(all.map(rowOf))].sort((a, b) => (a < b ? 1 : -1)); // from the top
  const rows = order.map((row, i) => ({ y: MARGIN.top + ROW * (i + 0.5), name: nameOfRow(row) }));
  const yOf = new Map(order.map((row, i) => [row, rows[i].y]));
  const cells = new Map();
  for (const node of all) {
    const key = `${node.position}/${rowOf(node)}`;
    if (!cells.has(key)) cells.set(key, { position: node.position, row: rowOf(node), nodes: [], n: 0 });
    cells.get(key).n++;
    if (shown.has(node.id)) cells.get(key).nodes.push(node);
  }
  const columns = columnsOf(cells.values(), all.reduce((n, node) => Math.max(n, node.position + 1), graph.tokens.length), room);
  const places = new Map();
  for (const { position, row, nodes } of cells.values()) {
    const column = columns[position];
    nodes.sort((a, b) => (a.index ?? 0) - (b.index ?? 0) || (a.id < b.id ? -1 : 1));
    const step = Math.min(STEP, (column.width - 4) / Math.max(1, nodes.length));
    nodes.forEach((node, i) => places.set(node.id, [column.x + (i - (nodes.length - 1) / 2) * step, yOf.get(row)]));
  }
  const last = columns.at(-1);
  const width = last.x + last.width / 2 + MARGIN.right;
  return { width, height: MARGIN.top + ROW * rows.length + MARGIN.bottom, places, columns, rows };
}

function columnsOf(cells, n, room) {
  const fullest = Array(n).fill(0);
  for (const cell of cells) fullest[cell.position] = Math.max(fullest[cell.position], cell.n);
  const inner = Math.max(LEAST_WIDTH, room) - MARGIN.left - MARGIN.right;
  const widths = fit(fullest, inner);
  let x = MARGIN.left;
  return widths.map((width, position) => {
    x += width;
    return { x: x - width / 2, width, position };
  });
}

/* Widths that fill `inner`, or more where that is too narrow to tell nodes apart: what is beyond the least goes to columns
   by how much more they would like. */
function fit(fullest, inner) {
  const least = fullest.map((n) => Math.max(LEAST_COLUMN, n * LEAST_STEP + 4));
  const beyond = fullest.map((n, i) => Math.max(0, n * STEP + 6 - least[i]));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const left = Math.max(0, inner - sum(least));
  const share = (i) => (sum(beyond) ? beyond[i] / sum(beyond) : 1 / least.length);
  return least.map((width, i) => width + left * share(i));
}

/* The id of the node nearest to a point, within `radius`; undefined: none. */
export function nearest(places, x, y, radius) {
  let found, best = radius * radius;
  for (const [id, [thereX, thereY]] of places) {
    const distance = (thereX - x) ** 2 + (thereY - y) ** 2;
    if (distance <= best) [found, best] = [id, distance];
  }
  return found;
}

/* The nearest node in a direction, "left", "right", "up" or "down"; undefined: none. Sideways distance counts double. */
export function neighbour(places, id, direction) {
  const [x, y] = places.get(id);
  let found, best = Infinity;
  for (const [other, [thereX, thereY]] of places) {
    const [dx, dy] = [thereX - x, thereY - y];
    const [ahead, aside] = { left: [-dx, dy], right: [dx, dy], up: [-dy, dx], down: [dy, dx] }[direction];
    const distance = ahead + 2 * Math.abs(aside);
    if (ahead > 0.5 && distance < best) [found, best] = [other, distance];
  }
  return found;
}

/* A link's curve, leaving its source upwards and reaching its target from below, through places so far aside. */
export function curve([x1, y1], [x2, y2], aside = 0) {
  const bend = Math.max(12, Math.abs(y1 - y2) * 0.4);
  const at = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return `M${at(x1, y1)}C${at(x1 + aside, y1 - bend)} ${at(x2 + aside, y2 + bend)} ${at(x2, y2)}`;
}

/* The width of a link's line by its share of the strongest. */
export const stroke = (weight, strongest) => 0.6 + (3.4 * Math.abs(weight)) / (strongest || 1);

export const BOX = { width: 148, height: 30 };
const GAP = 10;

/* Where the boxes of a subgraph stand: by mean token and layer of their nodes, moved apart where they would overlap.
   `boxes` are {key, nodes}, `moved` what the reader dragged: key → [x, y]. Gives key → [x, y] of their middles. */
export function boxesLayout(boxes, moved, room) {
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const placed = boxes.map(({ key, nodes }) => ({
    key, column: mean(nodes.map((node) => node.position)), row: mean(nodes.map(rankOf)),
  }));
  const levels = [...new Set(placed.map((box) => Math.round(box.row)))].sort((a, b) => b - a);
  const perLine = Math.max(1, Math.floor((room + GAP) / (BOX.width + GAP)));
  const last = Math.max(1, ...placed.map((box) => box.column));
  const found = new Map();
  let y = BOX.height / 2 + 6;
  for (const level of levels) {
    const line = placed.filter((box) => Math.round(box.row) === level).sort((a, b) => a.column - b.column);
    for (let first = 0; first < line.length; first += perLine) {
      const part = line.slice(first, first + perLine);
      const wanted = part.map((box) => BOX.width / 2 + (box.column / last) * (room - BOX.width));
      apart(wanted, BOX.width / 2, room - BOX.width / 2).forEach((x, i) => found.set(part[i].key, [x, y]));
      y += BOX.height + 26;
    }
  }
  for (const [key, [x, y]] of moved) if (found.has(key)) found.set(key, [Math.min(x, room - BOX.width / 2), y]);
  return found;
}

/* Ascending places at least a box and a gap apart, between two ends that leave room for all, near those wanted. */
function apart(wanted, least, most) {
  const found = [...wanted];
  for (let i = 1; i < found.length; i++) found[i] = Math.max(found[i], found[i - 1] + BOX.width + GAP);
  for (let i = found.length - 1, end = most; i >= 0; i--, end = found[i + 1] - BOX.width - GAP) found[i] = Math.min(found[i], end);
  return found.map((x, i) => Math.max(x, least + i * (BOX.width + GAP)));
}

const rankOf = (node) => (node.type === "embedding" ? -1 : node.type === "logit" ? 10_000 : node.layer);
