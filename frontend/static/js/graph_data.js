/* An attribution graph as it is drawn, from circuit-tracer's JSON. Pure: no document, no network.

   A node is {id, type, layer, position, index, text, label, influence, activation, probability, inputs, outputs}; `type`
   is feature, error, embedding or logit, `index` the feature's in its source (null: not a feature). `inputs` and
   `outputs` are {node, weight}, the strongest first, as are the graph's links {source, target, weight}.
   Files differ in what they leave out; what is missing is null or ''. */

const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const text = (value) => (typeof value === "string" ? value : "");

export function read(file) {
  const tokens = file.metadata.prompt_tokens;
  const nodes = new Map();
  for (const given of file.nodes) nodes.set(given.node_id, readNode(given, tokens));
  const links = [];
  for (const { source, target, weight } of file.links) {
    const [from, to] = [nodes.get(source), nodes.get(target)];
    if (from && to) links.push({ source: from, target: to, weight: number(weight) ?? 0 }); // others were pruned away
  }
  for (const { source, target, weight } of links.sort(byWeight)) {
    source.outputs.push({ node: target, weight });
    target.inputs.push({ node: source, weight });
  }
  return { nodes, links, tokens, threshold: number(file.metadata.node_threshold) };
}

export const byWeight = (one, other) => Math.abs(other.weight) - Math.abs(one.weight);

function readNode(given, tokens) {
  const type = typeOf(given);
  const position = given.ctx_idx;
  return {
    id: given.node_id,
    type,
    layer: given.layer === "E" ? -1 : Number(given.layer),
    position,
    index: type === "feature" ? indexOf(given) : null,
    text: type === "embedding" ? tokens[position] ?? "" : "",
    label: text(given.clerp).trim(),
    influence: number(given.influence),
    activation: number(given.activation),
    probability: type === "logit" ? number(given.token_prob) : null,
    inputs: [],
    outputs: [],
  };
}

function typeOf(given) {
  const said = given.feature_type.toLowerCase();
  if (said.includes("error")) return "error";
  if (said === "embedding" || given.layer === "E") return "embedding";
  return said === "logit" ? "logit" : "feature";
}

/* In circuit-tracer's files `feature` pairs layer and index; `node_id` is layer_index_position. */
function indexOf(given) {
  const named = /^\d+_(\d+)_\d+$/.exec(given.node_id);
  return named ? Number(named[1]) : number(given.feature);
}

/* What a node is called: by the reader, in the file, where its feature is hosted, or by what it is. */
export function nameOf(node, clerps = new Map(), hosted = new Map()) {
  const known = hosted.get(keyOf(node));
  const said = clerps.get(node.id) || node.label || known?.label;
  if (said) return said;
  if (node.type === "embedding") return `token ${JSON.stringify(node.text)}`;
  if (node.type === "error") return `error of layer ${node.layer}`;
  if (known?.firesOn.length) return `fires on ${known.firesOn.slice(0, 3).map((token) => JSON.stringify(token)).join(" ")}`;
  return node.type === "logit" ? `logit ${node.id}` : `feature ${node.index ?? node.id}`;
}

export const keyOf = (node) => `${node.layer}/${node.index}`;

/* Ids of the nodes that are shown: by influence, by density of the feature where it is known, and whatever is pinned. */
export function visible(graph, { pruning, density, pinned }, hosted = new Map()) {
  const kept = new Set(pinned);
  for (const node of graph.nodes.values()) {
    const isStrong = node.influence === null || node.influence <= pruning;
    const known = hosted.get(keyOf(node));
    if (isStrong && (density === null || !known || known.density <= density)) kept.add(node.id);
  }
  return kept;
}

/* How many links there are between shown nodes, and the strongest of them. */
export function shownLinks(graph, shown, nMost) {
  const strongest = [];
  let n = 0;
  for (const link of graph.links) {
    if (!shown.has(link.source.id) || !shown.has(link.target.id)) continue;
    if (n++ < nMost) strongest.push(link);
  }
  return { n, strongest };
}

/* Links between groups of nodes: the sum of those between their nodes, [{source, target, weight}] by the groups' keys. */
export function linksBetween(graph, groups) {
  const groupOf = new Map(groups.flatMap(({ key, ids }) => ids.map((id) => [id, key])));
  const sums = new Map();
  for (const [id, source] of groupOf)
    for (const { node, weight } of graph.nodes.get(id)?.outputs ?? []) {
      const target = groupOf.get(node.id);
      if (target === undefined || target === source) continue;
      const key = JSON.stringify([source, target]);
      sums.set(key, { source, target, weight: (sums.get(key)?.weight ?? 0) + weight });
    }
  return [...sums.values()].sort(byWeight);
}
