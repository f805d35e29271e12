"""The pure modules of the graph's page: what a file is read as, where nodes stand, and what an address says."""

import mimetypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Route

from backend.settings import REPOSITORY
from tests import graph_samples

pytestmark = pytest.mark.browser
SCRIPTS = REPOSITORY / "frontend" / "static" / "js"
IMPORTS = """async ([file, given]) => {
  const [data, layout, state] = await Promise.all(["data", "layout", "state"].map((name) => import(`/graph_${name}.js`)));
  const graph = data.read(file);
  return (BODY)({ ...data, ...layout }, state, graph, given, file);
}"""

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(browser: Browser) -> Iterator[Run]:
    """Evaluates a function of (pure functions, those of the state, graph, what is given, file)."""

    def answer(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if not name:
            route.fulfill(content_type="text/html", body="<!doctype html>")
        else:
            route.fulfill(content_type=mimetypes.guess_type(name)[0], body=(SCRIPTS / name).read_text())

    page = browser.new_page()
    page.route("http://modules.test/**", answer)
    page.goto("http://modules.test/")
    yield lambda body, file, given=None: page.evaluate(IMPORTS.replace("BODY", body), [file, given])
    page.close()


def test_nodes_know_their_links_the_strongest_first(run):
    found = run(
        """(pure, state, graph) => Object.fromEntries([...graph.nodes.values()].map((node) =>
             [node.id, [node.type, node.layer, node.index, node.inputs.map(({ node, weight }) => [node.id, weight])]]))""",
        graph_samples.small(),
    )
    assert found == {
        "E_100_0": ["embedding", -1, None, []],
        "E_101_1": ["embedding", -1, None, []],
        "0_3_1": ["feature", 0, 3, [["E_100_0", 2], ["E_101_1", -1]]],
        "1_2_1": ["feature", 1, 2, [["0_3_1", 4], ["0_-1_1", 0.5]]],
        "0_-1_1": ["error", 0, None, []],
        "3_7_1": ["logit", 3, None, [["1_2_1", 3], ["0_3_1", -2.5]]],
    }


def test_files_that_leave_things_out_are_read_all_the_same(run):
    file = graph_samples.small()
    del file["qParams"]
    for node in file["nodes"]:
        for key in ("clerp", "influence", "activation", "feature"):
            node.pop(key, None)
    file["links"].append({"source": "gone", "target": "1_2_1", "weight": 1})
    file["links"][0]["weight"] = None
    names, n_links, state = run(
        """(pure, states, graph, given, file) => [
             [...graph.nodes.values()].map((node) => pure.nameOf(node)), graph.links.length,
             states.saved(states.read(new URLSearchParams(), file, graph))]""",
        file,
    )
    assert names == ['token "<bos>"', 'token "a"', "feature 3", "feature 2", "error of layer 0", "logit 3_7_1"]
    assert n_links == 6
    assert state == {
        "pinnedIds": [], "supernodes": [], "clerps": [], "pruningThreshold": 0.8, "densityThreshold": None,
    }  # fmt: skip


def test_a_feature_is_called_by_the_reader_the_file_or_what_is_known_of_it(run):
    names = run(
        """(pure, state, graph) => {
             const hosted = new Map([["1/2", { label: "", firesOn: [" a", "b"], density: 0.1 }]]);
             const named = (id, clerps = []) => pure.nameOf(graph.nodes.get(id), new Map(clerps), hosted);
             return [named("0_3_1"), named("0_3_1", [["0_3_1", "mine"]]), named("1_2_1")];
           }""",
        graph_samples.small(),
    )
    assert names == ["says a", "mine", 'fires on " a" "b"']


@pytest.mark.parametrize(
    ("pruning", "density", "pinned", "gone"),
    [
        (1, None, [], set()),
        (0.55, None, [], {"0_-1_1"}),
        (0.2, None, [], {"0_3_1", "1_2_1", "0_-1_1"}),
        (0.2, None, ["1_2_1"], {"0_3_1", "0_-1_1"}),
        (1, 0.01, [], {"1_2_1"}),
        (1, 0.01, ["1_2_1"], set()),
    ],
)
def test_pruning_leaves_nodes_without_influence_and_what_is_pinned(run, pruning, density, pinned, gone):
    shown = run(
        """(pure, state, graph, given) =>
             [...pure.visible(graph, given, new Map([["1/2", { density: 0.02, firesOn: [] }]]))]""",
        graph_samples.small(),
        {"pruning": pruning, "density": density, "pinned": pinned},
    )
    assert {node["node_id"] for node in graph_samples.small()["nodes"]} - set(shown) == gone


LAYOUT = """(pure, state, graph, given) => {
  const shown = new Set(given.shown ?? graph.nodes.keys());
  const { places, ...rest } = pure.layout(graph, shown, given.room);
  return { ...rest, places: Object.fromEntries(places) };
}"""


@pytest.mark.parametrize("room", [320, 1000, 1400])
def test_nodes_stand_in_the_column_of_their_token_and_the_row_of_their_layer(run, room):
    file = graph_samples.large()
    found = run(LAYOUT, file, {"room": room})
    columns, rows = found["columns"], {row["name"]: row["y"] for row in found["rows"]}
    assert len(columns) == len(graph_samples.TOKENS)
    if room > 900:
        assert found["width"] == pytest.approx(room)
    else:
        assert found["width"] > room, "a phone scrolls"
    for node in file["nodes"]:
        x, y = found["places"][node["node_id"]]
        column = columns[node["ctx_idx"]]
        assert abs(x - column["x"]) <= column["width"] / 2
        row = {"embedding": "embed", "logit": "logit"}.get(node["feature_type"], node["layer"])
        assert y == rows[row]
    assert rows["logit"] < rows["25"] < rows["0"] < rows["embed"] < found["height"]
    assert len({tuple(place) for place in found["places"].values()}) == len(file["nodes"]), "none hides another"


def test_rows_and_columns_stay_where_they_are_while_nodes_are_pruned(run):
    whole, pruned = (run(LAYOUT, graph_samples.small(), {"room": 800, "shown": shown}) for shown in (None, ["E_100_0"]))
    assert whole["rows"] == pruned["rows"]
    assert whole["columns"] == pruned["columns"]
    assert list(pruned["places"]) == ["E_100_0"]


def test_the_nearest_node_and_the_neighbours_of_one(run):
    found = run(
        """(pure) => {
             const places = new Map([["a", [0, 0]], ["b", [10, 0]], ["c", [10, -50]]]);
             return [pure.nearest(places, 7, 1, 5), pure.nearest(places, 5, 30, 9) ?? null,
                     pure.neighbour(places, "a", "right"), pure.neighbour(places, "b", "up"),
                     pure.neighbour(places, "a", "left") ?? null];
           }""",
        graph_samples.small(),
    )
    assert found == ["b", None, "b", "c", None]


def test_links_between_groups_are_sums(run):
    found = run(
        """(pure, state, graph) => pure.linksBetween(graph, [
             { key: "tokens", ids: ["E_100_0", "E_101_1"] }, { key: "middle", ids: ["0_3_1", "1_2_1"] },
             { key: "out", ids: ["3_7_1"] }])""",
        graph_samples.small(),
    )
    assert found == [
        {"source": "tokens", "target": "middle", "weight": 1},
        {"source": "middle", "target": "out", "weight": 0.5},
    ]


@pytest.mark.parametrize("room", [300, 700, 1200])
def test_boxes_of_a_subgraph_do_not_overlap_and_stay_inside(run, room):
    file = graph_samples.large()
    ids = [node["node_id"] for node in file["nodes"]][::37]
    found = run(
        """(pure, state, graph, { ids, room }) => [
             ...pure.boxesLayout(ids.map((id) => ({ key: id, nodes: [graph.nodes.get(id)] })), new Map(), room).values()]""",
        file,
        {"ids": ids, "room": room},
    )
    assert len(found) == len(ids)
    for i, (x, y) in enumerate(found):
        assert 74 - 0.01 <= x <= room - 74 + 0.01
        for other_x, other_y in found[:i]:
            assert abs(x - other_x) >= 148 or abs(y - other_y) >= 30


STATE = {
    "pinnedIds": "0_3_1,1_2_1,3_7_1,gone", "supernodes": '[["both, named","0_3_1","1_2_1","gone"],["none","gone"],7]',
    "clerps": '[["0_3_1","mine"],["gone","x"]]', "clickedId": "1_2_1", "pruningThreshold": "0.3",
    "densityThreshold": "0.05", "sg_pos": '[["3_7_1",10,20],["x"]]',
}  # fmt: skip
ROUND = """(pure, states, graph, given, file) => {
  const state = states.read(new URLSearchParams(given), file, graph);
  const again = states.read(states.write(state, new URLSearchParams(given)), file, graph);
  const plain = (each) => ({ ...states.saved(each), clicked: each.clicked, moved: [...each.moved] });
  return [plain(state), plain(again), states.write(state, new URLSearchParams({ embed: "true" })).get("embed")];
}"""


def test_an_address_says_all_of_a_state_and_what_is_not_in_the_graph_is_left_out(run):
    state, again, embed = run(ROUND, graph_samples.small(), STATE)
    assert state == again == {
        "pinnedIds": ["0_3_1", "1_2_1", "3_7_1"], "supernodes": [["both, named", "0_3_1", "1_2_1"]],
        "clerps": [["0_3_1", "mine"]], "pruningThreshold": 0.3, "densityThreshold": 0.05, "clicked": "1_2_1",
        "moved": [["3_7_1", [10, 20]]],
    }  # fmt: skip
    assert embed == "true"


@pytest.mark.parametrize(
    "broken", [{"supernodes": '[["a'}, {"pruningThreshold": "x"}, {"clerps": "7", "sg_pos": "null"}]
)
def test_half_an_address_is_read_as_far_as_it_goes(run, broken):
    state, again, _ = run(ROUND, graph_samples.small(), {"pinnedIds": "0_3_1"} | broken)
    assert state == again
    assert (state["pinnedIds"], state["pruningThreshold"]) == (["0_3_1"], 0.8)


def test_the_files_own_state_is_where_one_begins(run):
    file = graph_samples.small(node_threshold=0.6)
    file["qParams"] |= {"pinnedIds": ["1_2_1"], "supernodes": [["one", "0_3_1"]], "clickedId": "3_7_1"}
    state, _, _ = run(ROUND, file, {})
    assert (state["pinnedIds"], state["clicked"], state["pruningThreshold"]) == (["1_2_1", "0_3_1"], "3_7_1", 0.6)
    assert run(ROUND, file, {"pinnedIds": "0_3_1"})[0]["clicked"] == "", "unless the address says anything"


def test_pinning_and_grouping(run):
    steps = run(
        """(pure, states, graph, given, file) => {
             const steps = [states.read(new URLSearchParams(given), file, graph)];
             const add = (change) => steps.push(change(steps.at(-1)));
             add((state) => states.group(state, ["0_3_1", "1_2_1"], "two"));
             add((state) => states.rename(state, 0, "renamed"));
             add((state) => states.group(state, ["1_2_1", "3_7_1"], "others"));
             add((state) => states.togglePin(state, "0_3_1"));
             add((state) => states.ungroup(state, 0));
             add((state) => states.call(states.call(state, "3_7_1", "out"), "1_2_1", ""));
             const named = (groups) => groups.map(({ name, ids }) => [name, ...ids]);
             return steps.map(({ pinned, groups, clerps }) => [pinned, named(groups), [...clerps]]);
           }""",
        graph_samples.small(),
        {"pinnedIds": "0_3_1,1_2_1,3_7_1"},
    )
    every = ["0_3_1", "1_2_1", "3_7_1"]
    assert steps == [
        [every, [], []],
        [every, [["two", "0_3_1", "1_2_1"]], []],
        [every, [["renamed", "0_3_1", "1_2_1"]], []],
        [every, [["renamed", "0_3_1"], ["others", "1_2_1", "3_7_1"]], []],
        [every[1:], [["others", "1_2_1", "3_7_1"]], []],
        [every[1:], [], []],
        [every[1:], [], [["3_7_1", "out"]]],
    ]
