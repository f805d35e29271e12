import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.formats import neuronpedia
from backend.formats.dashboards import Moments
from backend.services.catalog import ModelFacts, SourceSetFacts, SourceView
from backend.services.features import (
    ExampleView,
    FeatureView,
    GroupView,
    HistogramView,
    LogitLensView,
    NeighbourView,
)

AT = datetime(2026, 11, 21, 4, 5, 6, 789_000, UTC)
MODEL = ModelFacts("gpt2-small", "GPT-2 small", "/m", "gpt2", 12, 768, 1024, AT)
SET = SourceSetFacts("gpt2-small", "res-jb", "Residual streams", AT)
SOURCE = SourceView(
    "gpt2-small", "6-res-jb", "res-jb", "blocks.6.hook_resid_pre", 6, "standard", 768, 24576, {"d_in": 768}, AT, 1,
    corpus="owt", n_corpus_tokens=1000, n_corpus_contexts=8, context_size=128, computed_at=AT + timedelta(hours=1),
)  # fmt: skip


def fp32(number: float) -> float:
    return float(np.float32(number))


def example(context, values, tokens=("a", "b", "c")):
    at = max(values, key=values.__getitem__)
    return ExampleView(context, tokens, tuple(values), tuple(map(fp32, values.values())), fp32(values[at]), at)


FEATURE = FeatureView(
    source=SOURCE,
    index=7,
    n_firings=5,
    n_contexts=3,
    density=0.005,
    max_value=fp32(2.2),
    min_value=fp32(0.1),
    moments=Moments(1.0, 0.5, 0.0, 3.0),
    decoder_norm=2.0,
    fires_on=("b",),
    log_histogram=HistogramView((0.1, 0.5, 2.2), (3, 2)),
    linear_histogram=HistogramView((fp32(0.1), 1.3, fp32(2.2)), (3, 2)),
    groups=(
        GroupView(True, fp32(2.1), fp32(2.2), 1.0, (example(3, {1: 2.2, 2: 0.3}), example(1, {0: 2.1}))),
        GroupView(False, 2.2 * 4 / 5, 2.2, 0.4, (example(5, {0: 2.15, 1: 0.1, 2: 0.2}),)),
        GroupView(False, 0.0, 2.2 / 5, 0.6, (example(4, {0: 0.1}, ("\n",)),)),
    ),
    logit_lens=LogitLensView(
        (("x", fp32(1.1)),), (("y", fp32(-1.2)),), HistogramView((-1.2, 0.0, 1.1), (4, 5)), Moments(0, 1, 0, 3)
    ),
    neighbours=(NeighbourView(9, fp32(0.7), 0.1, ("z",)),),
    previous_index=6,
    next_index=None,
)


def dead() -> FeatureView:
    none = HistogramView((), ())
    nothing = {"n_firings": 0, "density": 0.0, "max_value": 0.0, "groups": (), "logit_lens": None, "neighbours": ()}
    return replace(FEATURE, **nothing, linear_histogram=none, log_histogram=none)


def test_a_neuron_row_has_neuronpedias_keys_and_our_numbers():
    assert neuronpedia.neuron(FEATURE) == {
        "modelId": "gpt2-small", "layer": "6-res-jb", "index": "7", "sourceSetName": "res-jb", "creatorId": "",
        "createdAt": "2026-11-21T05:05:06.789Z", "maxActApprox": 2.2, "hasVector": False, "vector": [],
        "vectorLabel": None, "vectorDefaultSteerStrength": 10, "hookName": "blocks.6.hook_resid_pre",
        "topkCosSimIndices": [9], "topkCosSimValues": [0.7],
        "neuron_alignment_indices": [], "neuron_alignment_values": [], "neuron_alignment_l1": [],
        "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
        "correlated_features_indices": [], "correlated_features_pearson": [], "correlated_features_l1": [],
        "neg_str": ["y"], "neg_values": [-1.2], "pos_str": ["x"], "pos_values": [1.1], "frac_nonzero": 0.005,
        "freq_hist_data_bar_heights": [3, 2], "freq_hist_data_bar_values": [0.7, 1.75],
        "logits_hist_data_bar_heights": [4, 5], "logits_hist_data_bar_values": [-0.6, 0.55],
        "decoder_weights_dist": [], "umap_cluster": None, "umap_log_feature_sparsity": None, "umap_x": None,
        "umap_y": None,
    }  # fmt: skip


def test_an_activation_row_has_neuronpedias_keys_and_a_value_for_every_token():
    row = neuronpedia.activations(FEATURE)[0]
    assert len(row.pop("id")) == 25
    assert row == {
        "tokens": ["a", "b", "c"], "dataIndex": "3", "index": "7", "layer": "6-res-jb", "modelId": "gpt2-small",
        "source": "6-res-jb", "dataSource": "owt", "maxValue": 2.2, "maxValueTokenIndex": 1, "minValue": 0.0,
        "values": [0.0, 2.2, 0.3], "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None, "zQIndices": [],
        "zKIndices": [], "zValues": [], "creatorId": "", "createdAt": "2026-11-21T05:05:06.789Z", "lossValues": [],
        "logitContributions": None, "binMin": -1, "binMax": 2.2, "binContains": -1, "qualifyingTokenIndex": 1,
            "documents": [],
    }  # fmt: skip


def test_activation_rows_come_by_greatest_value_and_say_their_interval():
    rows = neuronpedia.activations(FEATURE)
    keys = ("maxValue", "minValue", "binMin", "binMax", "binContains")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (2.2, 0.0, -1, 2.2, -1),
        (2.15, 0.1, 1.76, 2.2, 0.4),
        (2.1, 0.0, -1, 2.2, -1),
        (0.1, 0.1, 0.0, 0.44, 0.6),
    ]


def test_activation_ids_depend_on_nothing_but_the_example():
    ids = [row["id"] for row in neuronpedia.activations(FEATURE)]
    assert len(set(ids)) == 4
    assert ids == [row["id"] for row in neuronpedia.activations(replace(FEATURE, density=0.1))]
    assert not set(ids) & {row["id"] for row in neuronpedia.activations(replace(FEATURE, index=8))}


def test_a_dead_feature_has_empty_lists():
    row = neuronpedia.neuron(dead())
    assert (row["maxActApprox"], row["frac_nonzero"]) == (0.0, 0.0)
    lists = ("freq_hist_data_bar_heights", "freq_hist_data_bar_values", "pos_str", "neg_values", "topkCosSimIndices")
    assert all(row[key] == [] for key in lists)
    assert neuronpedia.activations(dead()) == []


def test_a_feature_with_relations_adds_them_to_the_row():
    whole = neuronpedia.feature_with_relations(FEATURE, MODEL, SET)
    assert neuronpedia.neuron(FEATURE).items() <= whole.items()
    assert whole["activations"] == neuronpedia.activations(FEATURE)
    assert (whole["creator"], whole["lists"], whole["comments"], whole["explanations"]) == ({"name": ""}, [], [], [])
    assert whole["model"]["dimension"] == 768
    assert (whole["model"]["layers"], whole["model"]["displayName"]) == (12, "GPT-2 small")
    source = whole["source"]
    assert (source["id"], source["setName"], source["saelensConfig"]) == ("6-res-jb", "res-jb", {"d_in": 768})
    assert (source["num_prompts"], source["num_tokens_in_prompt"], source["dataset"]) == (8, 128, "owt")
    assert [source[key] for key in ("hfRepoId", "hfFolderId", "saelensRelease", "saelensSaeId")] == [None] * 4
    assert (whole["sourceSet"]["name"], whole["sourceSet"]["description"]) == ("res-jb", "Residual streams")


def test_a_feature_in_a_list_has_fewer_relations():
    whole = neuronpedia.feature_with_relations(FEATURE, MODEL, SET)
    listed = neuronpedia.feature_in_list(FEATURE, MODEL, SET)
    assert whole.keys() - listed.keys() == {"source", "creator", "lists", "comments"}
    assert all(whole[key] == value for key, value in listed.items())


def test_a_source_without_dashboards_says_so():
    bare = SourceView("m", "6-x", "x", "blocks.6.hook_resid_pre", 6, "topk", 8, 16, {}, AT, None)
    row = neuronpedia.source_row(bare)
    assert (row["hasDashboards"], row["dataset"], row["num_prompts"], row["num_tokens_in_prompt"]) == (
        False, None, None, None,
    )  # fmt: skip


def test_a_model_not_yet_loaded_has_no_layers():
    row = neuronpedia.model_row(ModelFacts("m", "M", "/m", None, None, None, None, AT))
    assert (row["layers"], row["dimension"]) == (0, None)


def test_times_are_written_as_javascript_writes_them():
    elsewhere = AT.astimezone(timezone(timedelta(hours=-3)))
    assert neuronpedia.model_row(replace(MODEL, created_at=elsewhere))["createdAt"] == "2026-11-21T04:05:06.789Z"


@given(st.lists(st.floats(0, width=32, allow_infinity=False, exclude_min=True), min_size=1, max_size=8))
def test_numbers_are_the_shortest_decimals_of_their_fp32(numbers):
    shown = ExampleView(1, ("t",) * len(numbers), tuple(range(len(numbers))), tuple(numbers), max(numbers), 0)
    feature = replace(FEATURE, groups=(GroupView(True, 0.0, 1.0, 1.0, (shown,)),))
    values = json.loads(json.dumps(neuronpedia.activations(feature)))[0]["values"]
    assert [np.float32(value) for value in values] == [np.float32(number) for number in numbers]
    assert [Decimal(repr(value)) for value in values] == [Decimal(str(np.float32(number))) for number in numbers]


def test_0_1_is_written_as_0_1():
    assert neuronpedia.activations(FEATURE)[-1]["values"] == [0.1]
    assert fp32(0.1) != pytest.approx(0.1, abs=0)
