import json

import orjson
import pytest
from hypothesis import given as cases
from hypothesis import strategies as st

from backend.formats import neuronpedia_rows
from backend.formats.neuronpedia_rows import Counts, Text

ROW = {
    "id": "cm1", "modelId": "m", "layer": "6-x", "index": "7", "tokens": ["a", "b", "c"], "values": [0, 1.5, 0.25],
    "maxValue": 1.5, "minValue": 0, "maxValueTokenIndex": 1, "binMin": -1, "binMax": 2.2, "binContains": -1,
    "dfaValues": [], "dataIndex": None,
}  # fmt: skip


def read(row: dict | bytes) -> tuple[Text, Counts]:
    counts = Counts()
    line = row if isinstance(row, bytes) else orjson.dumps(row)
    return neuronpedia_rows.activation(line, counts), counts


def tokens(text: Text) -> list[str]:
    return neuronpedia_rows.tokens(text.span, Counts())


def test_an_activation_is_what_its_row_says_less_what_follows() -> None:
    text, counts = read(ROW)
    assert (text.feature, text.positions, text.values, text.n_values) == (7, [1, 2], [1.5, 0.25], 3)
    assert tokens(text) == ["a", "b", "c"]
    assert text.row == {"id": "cm1", "binMin": -1, "binMax": 2.2, "binContains": -1}
    assert not counts.unknown
    assert not counts.put_right


def test_what_does_not_follow_from_the_values_is_kept() -> None:
    text, _ = read(ROW | {"maxValue": 9, "minValue": -1, "maxValueTokenIndex": 2})
    assert {name: text.row[name] for name in ("maxValue", "minValue", "maxValueTokenIndex")} == {
        "maxValue": 9, "minValue": -1, "maxValueTokenIndex": 2,
    }  # fmt: skip


@pytest.mark.parametrize("index", [7, "7", 7.0])
def test_an_index_is_a_number_or_its_digits(index: object) -> None:
    assert read(ROW | {"index": index})[0].feature == 7


@pytest.mark.parametrize("index", ["", "-1", "seven", -1, True, None, 2**31, 7.5])
def test_another_index_is_refused(index: object) -> None:
    with pytest.raises(ValueError, match="'index' is the number of a feature"):
        read(ROW | {"index": index})


def test_unknown_keys_are_kept_and_counted() -> None:
    text, counts = read(ROW | {"mine": {"a": 1}})
    assert text.row["mine"] == {"a": 1}
    assert counts.unknown == {"mine": 1}


def test_numbers_that_are_none_are_put_right() -> None:
    line = json.dumps(ROW | {"values": [0, float("nan"), float("inf")], "binMax": float("-inf")}).encode()
    text, counts = read(line)
    assert (text.positions, text.values) == ([2], [9999.0])
    assert text.row["binMax"] == -9999.0
    assert counts.put_right["number that is not finite"] == 3


def test_nul_and_halves_of_characters_come_through() -> None:
    line = json.dumps(ROW | {"tokens": ["\0", "\ud83d", "é"]}).encode()
    counts = Counts()
    text = neuronpedia_rows.activation(line, counts)
    assert neuronpedia_rows.tokens(text.span, counts) == ["\0", "�", "é"]
    assert counts.put_right["text that is no Unicode"] == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"[1]", "object"),
        (b"{", "no JSON"),
        (orjson.dumps(ROW | {"values": "none"}), "'values'"),
        (orjson.dumps(ROW | {"values": ["1", "2", "3"]}), "'values'"),
        (orjson.dumps({key: value for key, value in ROW.items() if key != "tokens"}), "'tokens'"),
    ],
)
def test_what_is_no_activation_is_refused(row: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(row)


def test_tokens_of_another_kind_are_refused_where_they_are_read() -> None:
    text, _ = read(ROW | {"tokens": ["a", 1, "c"]})
    with pytest.raises(ValueError, match="'tokens' is a list of texts"):
        tokens(text)


TRICKY = st.sampled_from(
    ["]", "],", '],"', '"', '"],"x', "\\", '\\"', '"]', "[", "tokens", '"tokens":', "\n", "é", " ", ""]
)


@cases(
    texts=st.lists(TRICKY | st.text(max_size=5), max_size=8),
    is_first=st.booleans(),
    is_spaced=st.booleans(),
    is_ascii=st.booleans(),
)
def test_spans_are_cut_where_the_list_ends(texts: list[str], is_first: bool, is_spaced: bool, is_ascii: bool) -> None:
    """Whatever stands in the tokens, wherever the key stands, however the JSON is written."""
    rest = {key: value for key, value in ROW.items() if key not in ("tokens", "values")}
    own = {"tokens": texts, "values": [0.5] * len(texts)}
    row = own | rest if is_first else rest | own
    row |= {"dataSource": '"tokens":["x"],"y"'}
    separators = (", ", ": ") if is_spaced else (",", ":")
    line = json.dumps(row, separators=separators, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    text, counts = read(line)
    found = neuronpedia_rows.tokens(text.span, counts)
    assert found == [each.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for each in texts]
    assert text.n_values == len(texts)
    assert text.row["dataSource"] == row["dataSource"]


def test_a_feature_s_row_drops_what_says_nothing() -> None:
    counts = Counts()
    row = {
        "index": "3",
        "layer": "6-x",
        "neg_str": [],
        "pos_str": ["x"],
        "pos_values": [1.5],
        "hasVector": False,
        "new": 1,
    }
    assert neuronpedia_rows.neuron(orjson.dumps(row), counts) == (
        3, {"pos_str": ["x"], "pos_values": [1.5], "hasVector": False, "new": 1},
    )  # fmt: skip
    assert counts.unknown == {"new": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"pos_str": ["x"], "pos_values": []},
        {"freq_hist_data_bar_heights": [1], "freq_hist_data_bar_values": [1, 2]},
        {"neg_str": "x"},
    ],
)
def test_lists_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"length|list"):
        neuronpedia_rows.neuron(orjson.dumps({"index": 1} | wrong), Counts())


def test_a_feature_of_saedashboard_is_renamed() -> None:
    example = {
        "bin_min": 0.0, "bin_max": 0.4, "bin_contains": 0.25, "tokens": ["a", "b"], "values": [0.0, 0.3],
        "qualifying_token_index": 1, "dfa_values": [], "dfa_maxValue": 0, "dfa_targetIndex": -1,
        "logit_contributions": [1.0],
    }  # fmt: skip
    feature = {
        "feature_index": 5, "frac_nonzero": 0.001, "n_prompts_total": 10, "n_tokens_in_prompt": 128, "dataset": "d",
        "vector": [0.5], "neg_str": [], "neg_values": [], "activations": [example],
    }  # fmt: skip
    found = neuronpedia_rows.of_dashboard(feature, "blocks.3.hook_resid_pre", Counts())
    assert found.index == 5
    assert found.corpus == {"n_prompts_total": 10, "n_tokens_in_prompt": 128, "dataset": "d"}
    assert found.row == {
        "frac_nonzero": 0.001, "vector": [0.5], "maxActApprox": 0.3, "hasVector": True,
        "vectorDefaultSteerStrength": 0.3, "hookName": "blocks.3.hook_resid_pre",
    }  # fmt: skip
    (text,) = found.texts
    assert (text.positions, text.values) == ([1], [0.3])
    assert text.row == {
        "binMin": 0.0, "binMax": 0.4, "binContains": 0.25, "qualifyingTokenIndex": 1, "dfaMaxValue": 0,
        "dfaTargetIndex": -1, "logitContributions": "[1.0]",
    }  # fmt: skip


@cases(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"x")), max_size=6), st.integers(1, 7))
def test_lines_do_not_depend_on_how_bytes_come(given: list[bytes], n: int) -> None:
    data = b"\n".join(given)
    pieces = [data[i : i + n] for i in range(0, len(data), n)]
    assert list(neuronpedia_rows.lines(pieces)) == [line for line in given if line.strip()]
