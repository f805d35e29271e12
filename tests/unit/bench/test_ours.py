"""Our side of the comparison, end to end on a tiny model: a run, its top contexts, and float64's opinion of them."""

from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file

from backend.names import HookPoint
from tests import tiny
from tests.bench import equality, exact, ours, workload
from tests.bench.equality import Place, Reason

N_ROWS = 64
D_SAE = 40


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    model = tiny.save_model(folder / "model")
    dictionary = tiny.save_sae(folder / "sae", d_sae=D_SAE)
    rows = np.random.default_rng(0).integers(1, 250, (N_ROWS, tiny.N_CONTEXT)).astype(np.uint16)
    rows[:, 0] = 0
    np.save(folder / "tokens.npy", rows)
    files = ["--model", model, "--sae", dictionary, "--tokens", folder / "tokens.npy"]
    n_contexts = N_ROWS * tiny.N_CONTEXT // workload.CONTEXT_SIZE
    said = ours.run(files, folder / "out", n_contexts, ["--screen", "fp32"])
    residuals = exact.our_residuals(model, HookPoint(1, "hook_resid_post"), rows)
    return said, folder, residuals, exact.Exact(dictionary, residuals, residuals)


def test_seconds_are_those_of_the_stages_that_count(ran) -> None:
    said = ran[0]
    counted = {stage: seconds for stage, seconds in said["stages_cpu_s"].items() if stage != "import"}
    assert set(counted) == {"prepare", "encode", "finish", "write"}
    assert said["cpu_s"] == pytest.approx(sum(counted.values()))
    assert said["span_cpu_s"] == pytest.approx(said["cpu_s"] - counted["prepare"])
    assert said["arguments"] == ["--screen", "fp32"]


def test_a_ranking_of_tokens_in_float64_agrees_with_our_top_contexts(ran) -> None:
    _, folder, residuals, truth = ran
    weights = load_file(folder / "sae" / "sae_weights.safetensors")
    pre = (residuals.astype(np.float64) - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    value = np.where(pre > weights["threshold"], pre, 0) * np.linalg.norm(weights["W_dec"], axis=1)
    value[:, 0] = 0
    mine = ours.top_contexts(folder / "out", range(D_SAE))
    found = {}
    for feature in range(D_SAE):
        order = np.argsort(-value[..., feature], axis=None, kind="stable")[: equality.N_PLACES]
        places = [Place(*divmod(int(at), tiny.N_CONTEXT), float(value[..., feature].flat[at])) for at in order]
        found[feature] = equality.compare(feature, places, mine[feature], partial(truth.token, feature))
    reasons = {difference.reason for differences in found.values() for difference in differences}
    assert reasons <= {Reason.REPEATED, Reason.SILENT}
    assert sum(len(contexts) for contexts in mine.values()) > 100


def test_a_wrong_value_of_ours_is_found(ran) -> None:
    _, folder, _, truth = ran
    mine = ours.top_contexts(folder / "out", range(D_SAE))
    feature, contexts = next((feature, contexts) for feature, contexts in mine.items() if len(contexts) > 1)
    places = [max(context, key=lambda place: place.value) for context in contexts]
    assert not equality.compare(feature, places, contexts, partial(truth.token, feature))
    first = places[0]
    wrong = [Place(first.context, first.position, first.value * 1.01), *places[1:]]
    found = equality.compare(feature, wrong, contexts, partial(truth.token, feature))
    assert [difference.reason for difference in found] == [Reason.UNEXPLAINED]
