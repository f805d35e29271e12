/* What a reader made of an attribution graph, as the address says it and as it is saved. Pure.

   {pinned: [id], groups: [{name, ids}], clerps: id → name, clicked: id or '', pruning: 0.2 to 1, density: 0 to 1 or null,
   moved: key → [x, y]}. A group's nodes are pinned, and a node is in one group at most. In addresses, files and saved
   states the keys are Neuronpedia's: pinnedIds, supernodes, clerps, clickedId, pruningThreshold, densityThreshold; sg_pos
   is circuit-tracer's, which leaves open what is in it: here JSON of [key, x, y]. */

const KEYS = ["pinnedIds", "supernodes", "clerps", "clickedId", "pruningThreshold", "densityThreshold", "sg_pos"];
export const PRUNING = { least: 0.2, most: 1, usual: 0.8 };

export const groupKey = (i) => `group ${i}`;

/* From the address where it says anything, else from the file's qParams. Ids that are no nodes of the graph are left out. */
export function read(parameters, file, graph) {
  const given = KEYS.some((key) => parameters.has(key)) ? ofAddress(parameters) : ofFile(file);
  return sane(given, graph);
}

export const ofSaved = (saved, graph) => sane({ ...saved, clickedId: "", sg_pos: [] }, graph);

export function saved(state) {
  return {
    pinnedIds: state.pinned,
    supernodes: state.groups.map(({ name, ids }) => [name, ...ids]),
    clerps: [...state.clerps],
    pruningThreshold: state.pruning,
    densityThreshold: state.density,
  };
}

/* The parameters of the address that says all of it; others are kept as they are. */
export function write(state, parameters) {
  const found = new URLSearchParams(parameters);
  for (const key of KEYS) found.delete(key);
  const { pinnedIds, supernodes, clerps } = saved(state);
  if (pinnedIds.length) found.set("pinnedIds", pinnedIds.join(","));
  if (supernodes.length) found.set("supernodes", JSON.stringify(supernodes));
  if (clerps.length) found.set("clerps", JSON.stringify(clerps));
  if (state.clicked) found.set("clickedId", state.clicked);
  found.set("pruningThreshold", String(state.pruning));
  if (state.density !== null) found.set("densityThreshold", String(state.density));
  if (state.moved.size) found.set("sg_pos", JSON.stringify([...state.moved].map(([key, [x, y]]) => [key, Math.round(x), Math.round(y)])));
  return found;
}

export function togglePin(state, id) {
  if (!state.pinned.includes(id)) return { ...state, pinned: [...state.pinned, id] };
  const groups = state.groups.map(({ name, ids }) => ({ name, ids: ids.filter((each) => each !== id) }));
  return withoutEmpty({ ...state, pinned: state.pinned.filter((each) => each !== id), groups });
}

/* The nodes become one group, and leave those they were in. */
export function group(state, ids, name) {
  const others = state.groups.map((each) => ({ ...each, ids: each.ids.filter((id) => !ids.includes(id)) }));
  return withoutEmpty({ ...state, groups: [...others, { name, ids }] });
}

export const ungroup = (state, i) => ({ ...state, groups: state.groups.filter((_, at) => at !== i), moved: ungrouped(state.moved) });

export const rename = (state, i, name) => ({
  ...state, groups: state.groups.map((each, at) => (at === i ? { ...each, name } : each)),
});

export function call(state, id, name) {
  const clerps = new Map(state.clerps);
  if (name) clerps.set(id, name);
  else clerps.delete(id);
  return { ...state, clerps };
}

function withoutEmpty(state) {
  const groups = state.groups.filter(({ ids }) => ids.length);
  return { ...state, groups, moved: groups.length === state.groups.length ? state.moved : ungrouped(state.moved) };
}

/* Groups are known by their number, so their places mean nothing once one is gone. */
const ungrouped = (moved) => new Map([...moved].filter(([key]) => !key.startsWith("group ")));

function ofAddress(parameters) {
  const list = (key) => (parameters.get(key) ?? "").split(",").filter(Boolean);
  return {
    pinnedIds: list("pinnedIds"), supernodes: json(parameters.get("supernodes")), clerps: json(parameters.get("clerps")),
    clickedId: parameters.get("clickedId") ?? "", pruningThreshold: decimal(parameters.get("pruningThreshold")),
    densityThreshold: decimal(parameters.get("densityThreshold")), sg_pos: json(parameters.get("sg_pos")),
  };
}

function ofFile(file) {
  const given = file.qParams ?? {};
  return { ...given, sg_pos: json(given.sg_pos) };
}

const decimal = (text) => (text === null || text === "" || Number.isNaN(Number(text)) ? null : Number(text));

function json(text) {
  try {
    return JSON.parse(text ?? "[]") ?? [];
  } catch {
    return []; // somebody's half of an address
  }
}

function sane(given, graph) {
  const array = (value) => (Array.isArray(value) ? value : []);
  const known = (ids) => [...new Set(array(ids))].filter((id) => graph.nodes.has(id));
  const taken = new Set();
  const groups = [];
  for (const [name, ...members] of array(given.supernodes).filter(Array.isArray)) {
    const ids = known(members).filter((id) => !taken.has(id));
    for (const id of ids) taken.add(id);
    if (ids.length) groups.push({ name: String(name), ids });
  }
  const pruning = Number.isFinite(given.pruningThreshold) ? given.pruningThreshold : graph.threshold ?? PRUNING.usual;
  const density = given.densityThreshold;
  const moved = array(given.sg_pos).filter((each) => Array.isArray(each) && Number.isFinite(each[1]) && Number.isFinite(each[2]));
  return {
    pinned: [...new Set([...known(given.pinnedIds), ...taken])],
    groups,
    clerps: new Map(array(given.clerps).filter((each) => Array.isArray(each) && graph.nodes.has(each[0]) && each[1]).map(([id, name]) => [id, String(name)])),
    clicked: graph.nodes.has(given.clickedId) ? given.clickedId : "",
    pruning: Math.min(PRUNING.most, Math.max(PRUNING.least, pruning)),
    density: Number.isFinite(density) ? Math.min(1, Math.max(0, density)) : null,
    moved: new Map(moved.map(([key, x, y]) => [String(key), [x, y]])),
  };
}
