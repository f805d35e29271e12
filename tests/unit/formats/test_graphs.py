import gzip
import json
import math

import pytest

from backend import errors
from backend.formats import graphs
from tests import graph_samples


def parse(given) -> graphs.GraphFile:
    return graphs.parse(json.dumps(given).encode())


def problems_of(given) -> str:
    with pytest.raises(errors.ProblemsError) as told:
        parse(given)
    return "\n".join(told.value.problems)


def test_a_graph_says_what_it_is_of():
    data = json.dumps(graph_samples.small(title_prefix="Mine:")).encode()
    found = graphs.parse(data)
    assert (found.model, found.slug, found.prompt, found.prompt_tokens) == ("tiny", "small", "<bos>a", ("<bos>", "a"))
    assert (found.title_prefix, found.source_set, found.n_nodes, found.n_links) == ("Mine:", "", 6, 6)
    assert found.text == data


def test_a_large_graph_and_its_source_set():
    found = parse(graph_samples.large())
    assert (found.n_nodes, found.n_links, found.source_set) == (738, 15_000, "gemmascope-transcoder-16k")


def test_what_real_files_leave_out_or_write_otherwise_is_taken():
    given = graph_samples.small()
    del given["qParams"]
    first, _, low, high, rest, out = given["nodes"]
    for node in (first, rest):
        node["feature"] = None
    del low["influence"], low["clerp"], low["jsNodeId"], high["feature"]
    first["layer"], high["layer"], out["layer"] = -1, 1, 3
    given["links"].append({"source": "9_9_9", "target": high["node_id"], "weight": 1.0})
    given["qk_only_nodes"] = []
    found = parse(given)
    assert (found.n_nodes, found.n_links) == (6, 6), "a link to a node that was pruned away does not count"


def test_a_number_that_is_none_becomes_null_in_what_browsers_read():
    given = graph_samples.small()
    given["nodes"][2]["influence"] = math.nan
    given["links"][0]["weight"] = -math.inf
    found = parse(given)
    kept = json.loads(found.text)
    assert (kept["nodes"][2]["influence"], kept["links"][0]["weight"]) == (None, None)
    assert kept["nodes"][3] == given["nodes"][3]


def test_text_that_postgres_cannot_hold_is_replaced_in_what_lists_show():
    given = graph_samples.small(prompt="a\0b", prompt_tokens=["\0"])
    found = parse(given)
    assert (found.prompt, found.prompt_tokens) == ("a\ufffdb", ("\ufffd",))
    assert json.loads(found.text)["metadata"]["prompt"] == "a\0b"


def test_all_problems_are_told_at_once():
    given = graph_samples.small(slug="a/b", scan=None, prompt_tokens=["a", 1])
    given["nodes"][0]["layer"] = "x"
    given["nodes"][1]["ctx_idx"] = -1
    given["nodes"][3]["node_id"] = given["nodes"][2]["node_id"]
    given["nodes"][4] = 7
    given["links"][1]["weight"] = "much"
    del given["links"][2]["source"]
    told = problems_of(given)
    for part in (
        "'metadata.scan' is missing or null, not a text",
        "'metadata.slug': 'a/b' cannot be the slug of a graph",
        "'metadata.prompt_tokens' is not a list of texts",
        "1 of its nodes whose layer is neither a number nor 'E': nodes[0]",
        "ctx_idx is not the number of a token, from 0: nodes[1]",
        "with the node_id of another: nodes[3] ('0_3_1')",
        "1 of its nodes not objects: nodes[4]",
        "whose weight is not a number: links[1]",
        "without a node_id as source and as target: links[2]",
    ):
        assert part in told


def test_many_problems_of_a_kind_are_counted():
    given = graph_samples.small()
    given["links"] = [{} for _ in range(2_000)]
    assert "2,000 of its links without" in problems_of(given)
    assert "links[4] and 1,995 more." in problems_of(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "It is a list, not an object"),
        ({}, "'metadata' is missing or null"),
        ({"metadata": 1, "nodes": {}, "links": "x", "qParams": []}, "'nodes' is an object, not a list"),
        (graph_samples.small() | {"nodes": []}, "'nodes' is empty"),
        (graph_samples.small() | {"qParams": [1]}, "'qParams' is a list"),
        (graph_samples.small(scan="graphs"), "'graphs' cannot be the id of a model"),
    ],
)
def test_what_is_no_graph_is_refused(given, told):
    assert told in problems_of(given)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN,", b"[" * 5_000, b"NaN" + b"[" * 50_000])
def test_what_is_not_json_is_refused(data):
    with pytest.raises(errors.SiteError, match="graph"):
        graphs.parse(data)


def test_files_are_unpacked_whether_gzipped_or_not(tmp_path):
    data = b'{"a": 1}' * 100
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    assert graphs.unpacked(plain, max_bytes=800) == graphs.unpacked(packed, max_bytes=800) == data
    for path in (plain, packed):
        with pytest.raises(errors.InvalidInputError, match="more than the 799 bytes"):
            graphs.unpacked(path, max_bytes=799)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:20] + b"xx" + data[22:]])
def test_a_broken_archive_is_refused(tmp_path, damage):
    path = tmp_path / "broken"
    path.write_bytes(damage(gzip.compress(json.dumps(graph_samples.small()).encode())))
    with pytest.raises(errors.InvalidInputError, match="cannot be unpacked"):
        graphs.unpacked(path, max_bytes=10**6)
