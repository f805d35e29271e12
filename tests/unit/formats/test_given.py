import pytest
from hypothesis import given as cases
from hypothesis import strategies as st

from backend.formats import given, import_parts, neuronpedia_rows
from backend.formats.given import GivenExample, GivenFeature
from backend.formats.neuronpedia_rows import Counts


def example(context: int, values: dict[int, float], tokens: tuple[int, ...] = (), **row: object) -> GivenExample:
    return GivenExample(context, tuple(values), tuple(values.values()), row, tokens)


FEATURE = GivenFeature(
    7,
    {"frac_nonzero": 0.00036999999999999999, "pos_str": [" x"], "pos_values": [0.1]},
    (
        example(3, {1: 0.1, 5: 2.25}, binMin=-1, binContains=-1, id="a"),
        example(9, {0: 1.0}, binMin=0.0, binContains=0.25, id="b", mine=[1, {"x": None}]),
        example(3, {}, binMin=-1, binContains=-1),
        example(given.OWN, {1: 0.5}, (7, 70_000, 0xD800), binMin=0.0),
        example(given.OWN, {}, ()),
        example(given.OWN, {0: 0.25}, (1,)),
    ),
)


def test_packing_keeps_every_number_and_text() -> None:
    packed = given.pack(FEATURE)
    assert given.is_given(packed)
    assert given.unpack(packed) == FEATURE


def test_a_dead_feature_is_packed_too() -> None:
    dead = GivenFeature(0, {}, ())
    assert given.unpack(given.pack(dead)) == dead
    assert (dead.max_value, dead.density, dead.neighbours) == (0.0, 0.0, [])
    assert given.facts(dead, [], 1000).n_firings == 0


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 01"):
        given.unpack(b"\x01abc")


def test_types_that_are_equal_and_differ_are_kept_apart() -> None:
    feature = GivenFeature(1, {}, (example(0, {0: 1.0}, a=1), example(1, {0: 1.0}, a=True)))
    assert [type(each.row["a"]) for each in given.unpack(given.pack(feature)).examples] == [int, bool]


def test_first_top_contexts_are_shown_largest_first() -> None:
    assert [each.context for each in FEATURE.shown(1).examples] == [3]
    assert FEATURE.shown(1).examples[0].max_value == 2.25
    assert FEATURE.shown(None) is FEATURE


def test_facts_count_at_least_one_firing_of_what_is_not_dead() -> None:
    assert given.facts(FEATURE, ["x"], 0).n_firings == 1
    assert given.facts(FEATURE, ["x"], 1_000_000).n_firings == 370


@cases(st.lists(st.integers(0, given.MAX_TOKENS - 1), max_size=40))
def test_token_ids_are_packed_whatever_they_are(ids: list[int]) -> None:
    assert given.unpack_tokens(given.pack_tokens(ids)) == ids


def part(tmp_path, name: str, texts: list[tuple[int, list[str], list[float]]]) -> import_parts.Part:
    builder = import_parts.Builder()
    for index, tokens, values in texts:
        row = {"index": index, "tokens": tokens, "values": values}
        builder.add_text(neuronpedia_rows.activation(import_parts.orjson.dumps(row), Counts()))
    builder.write(tmp_path / name)
    return import_parts.read(tmp_path / name)


def test_parts_share_texts_and_tokens(tmp_path) -> None:
    one = part(tmp_path, "1", [(5, ["a", "b"], [0, 1]), (2, ["b", "c"], [1, 0]), (5, ["b", "c"], [2, 2])])
    two = part(tmp_path, "2", [(5, ["c", "b", "b"], [1, 0, 0]), (9, ["a", "b"], [3, 0])])
    known = {import_parts.digest(["zz"]): 0, import_parts.digest(["b", "c"]): 1}
    merged = import_parts.merge([one, two], known, ["zz", "c"], tmp_path / "ids", Counts())
    assert merged.vocabulary == ["zz", "c", "b", "a"]
    assert [each.tolist() for each in merged.of_parts] == [[2, 1], [-2, 2]], "one text is only shown by one example"
    read = {number: [merged.vocabulary[i] for i in ids] for number, ids in merged.new()}
    assert read == {2: ["a", "b"]}
    merged.write(tmp_path / "merged")
    numbering = import_parts.read_merged(tmp_path / "merged")
    found = {
        n: ids if ids is None else [numbering.vocabulary[i] for i in ids]
        for n in (1, 2, -2)
        for ids in [numbering.ids(n)]
    }
    assert found == {1: None, 2: ["a", "b"], -2: ["c", "b", "b"]}
    assert [row[0] for row in one.texts(5)] == [0, 1]
    assert one.texts(4) == []
    runs = list(import_parts.features_of([one, two], 2, 10**9))
    assert [run.tolist() for run in runs] == [[2, 5], [9]]
    assert [len(run) for run in import_parts.features_of([one, two], 10, 1)] == [1, 1, 1]


def test_a_text_written_in_two_ways_is_one(tmp_path) -> None:
    builder = import_parts.Builder()
    for tokens in (b'["\\u00e9"]', '["é"]'.encode(), b'[ "\\u00e9" ]'):
        line = b'{"index":1,"values":[1],"tokens":' + tokens + b',"id":"x"}'
        builder.add_text(neuronpedia_rows.activation(line, Counts()))
    builder.write(tmp_path / "1")
    merged = import_parts.merge([import_parts.read(tmp_path / "1")], {}, [], tmp_path / "ids", Counts())
    assert [each.tolist() for each in merged.of_parts] == [[0, 0, 0]]
    assert (merged.vocabulary, list(merged.new())) == (["é"], [(0, [0])])


def test_as_many_values_as_tokens(tmp_path) -> None:
    with pytest.raises(ValueError, match="3 values, where the same tokens have 2"):
        part(tmp_path, "1", [(5, ["a", "b"], [0, 1]), (5, ["a", "b"], [0, 1, 1])])
    one = part(tmp_path, "2", [(5, ["a", "b"], [0, 1, 1])])
    with pytest.raises(ValueError, match="3 values of 2 tokens"):
        import_parts.merge([one], {}, [], tmp_path / "ids", Counts())
