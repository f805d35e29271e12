"""Many texts generated side by side: each is what it would be alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import demo
from backend import errors
from backend.formats.messages import Push, Sampling
from tests import architectures, tiny
from tests.unit.compute.test_edits import METHODS, Formula, along, source_of
from tests.unit.compute.test_language_model import load
from workers.compute import edits, generation, language_model, prompts, running_rows
from workers.compute.generation import Failure, Generation, Token
from workers.compute.running_rows import Row

pytestmark = pytest.mark.usefixtures("one_thread")
DEMO = Path(demo.__file__).parent / "weights"
PLAIN = Sampling(n_tokens=8)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(architectures.save(tmp_path_factory.mktemp("gpt2"), "gpt2"))


@pytest.fixture(scope="module")
def demo_model() -> language_model.LanguageModel:
    return load(DEMO / "stdlib-4l")


@pytest.fixture(scope="module", params=["demo", "tinystories-260k"])
def real(request: pytest.FixtureRequest) -> language_model.LanguageModel:
    if request.param == "demo":
        found: language_model.LanguageModel = request.getfixturevalue("demo_model")
        return found
    folder = tiny.SHARED / "models" / "tinystories-260k"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}")
    return load(folder)


def generated(running: Generation, *batches: Sequence[Row]) -> dict[object, list[Token]]:
    """All tokens, by owner; a batch of rows joins before each of the first steps."""
    found: dict[object, list[Token]] = defaultdict(list)
    waiting = list(batches)
    while waiting or running.n_rows:
        if waiting:
            running.add(waiting.pop(0))
        for event in running.step():
            assert isinstance(event, Token)
            found[event.row.owner].append(event)
    return found


def ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


def stream_push(
    model: language_model.LanguageModel, method: str, strength: float, layer: int, seed: int
) -> edits.Change:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
    push = Push(
        method=method,
        strength=strength,
        hook_point=f"blocks.{layer}.hook_resid_post",
        vector=tuple(vector.tolist()),  # type: ignore[arg-type]
    )
    return edits.of_push(model, push)


def crowd(
    model: language_model.LanguageModel, n_requests: int, text: str, sae: edits.Source | None = None
) -> list[list[Row]]:
    """Requests of two rows each, all different: prompt, settings, seed, and what is pushed how."""
    prompt = prompts.of_text(model, text).ids
    kinds = [("add", 2.0), ("cap", -1.0), ("orthogonal", 1.5), ("ablate", 0.0), ("clamp", 3.0), ("add", -4.0)]
    requests = []
    for i in range(n_requests):
        settings = Sampling(
            n_tokens=3 + 5 * i % 17, temperature=(0.0, 0.7, 1.0, 1.3)[i % 4], top_p=(1.0, 0.9, 0.6)[i % 3],
            frequency_penalty=(0.0, 1.0)[i % 2], seed=1000 + i, n_alternatives=i % 4,
        )  # fmt: skip
        method, strength = kinds[i % 6]
        changes = [stream_push(model, method, strength, i % model.n_layers, i)]
        if i % 5 == 0:
            changes.append(stream_push(model, "add", 1.0, (i + 1) % model.n_layers, i + 50))
        if sae is not None and i % 7 == 3:
            method = ("clamp", "ablate", "reconstruct")[i % 3]
            push = Push(method=method, strength=8.0, source="s", index=i)  # type: ignore[arg-type]
            changes.append(edits.of_push(model, push, sae))
        default = Row(
            owner=(i, "default"), prompt=prompt[: 1 + i % len(prompt)], sampling=settings,
            stop_ids=prompts.stop_ids(model, is_chat=False),
        )  # fmt: skip
        pushed = i % 3 != 0
        requests.append(
            [replace(default, owner=(i, "steered"), changes=tuple(changes), are_special_tokens_pushed=pushed), default]
        )
    return requests


def test_a_request_alone_and_among_thirty_one_others_gets_the_same_tokens(
    real: language_model.LanguageModel,
) -> None:
    """They join at different steps and leave at different steps."""
    sae = source_of(real, str(DEMO / "saes" / "2-res-2k")) if real.d_model == 256 else None
    requests = crowd(real, 32, "def read(self, line): once upon a time there was a little girl", sae)
    joining = [[row for request in requests[i : i + 3] for row in request] for i in range(0, 32, 3)]
    together = generated(Generation(real), *joining)
    assert len(together) == 64
    alone = Generation(real)
    for request in requests[3::4]:
        found = generated(alone, request)
        for row in request:
            assert ids(found[row.owner]) == ids(together[row.owner])
            mine, theirs = (torch.tensor([t.logprob for t in each[row.owner]]) for each in (found, together))
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert sum(ids(together[i, "steered"]) != ids(together[i, "default"]) for i in range(32)) > 15


def test_it_makes_no_difference_whether_keys_are_kept(
    real: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = crowd(real, 8, "class Reader: one day, Tim and Lily")
    with_keys = Generation(real)
    assert with_keys.uncached_because == ""
    expected = generated(with_keys, *requests)
    monkeypatch.setattr(running_rows.CachedRows, "join", lambda self, rows: [][0])
    without = Generation(real)
    assert without.uncached_because.startswith("IndexError")
    assert {owner: ids(tokens) for owner, tokens in generated(without, *requests).items()} == {
        owner: ids(tokens) for owner, tokens in expected.items()
    }


def test_a_push_of_strength_zero_changes_nothing(demo_model: language_model.LanguageModel) -> None:
    """Steered and default text draw with the same noise."""
    prompt = prompts.of_text(demo_model, "def write(self, data):\n").ids
    settings = Sampling(n_tokens=40, temperature=1.0, seed=11)
    source = source_of(demo_model, str(DEMO / "saes" / "2-res-2k"))
    pushes = {
        strength: edits.of_push(demo_model, Push(strength=strength, source="s", index=5), source)
        for strength in (0.0, 60.0)
    }
    rows = [
        Row(owner="default", prompt=prompt, sampling=settings),
        *(Row(owner=c, prompt=prompt, sampling=settings, changes=(change,)) for c, change in pushes.items()),
    ]
    found = generated(Generation(demo_model), rows)
    assert [(t.id, t.logprob) for t in found[0.0]] == [(t.id, t.logprob) for t in found["default"]]
    assert ids(found[60.0]) != ids(found["default"])


@pytest.mark.parametrize("method", [*METHODS, "reconstruct"])
def test_a_real_feature_is_pushed_as_by_hand(demo_model: language_model.LanguageModel, method: str) -> None:
    """Log-probabilities of five generated tokens against a hook on the plain model, with top-k written out."""
    source = source_of(demo_model, str(DEMO / "saes" / "2-res-2k"))
    sae, c = source.encoder.sae, 6.0
    prompt = prompts.of_text(demo_model, "import os\n").ids

    def activations(x: torch.Tensor) -> torch.Tensor:
        pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
        assert sae.description.architecture == "topk"
        best = pre.topk(sae.description.k)
        return torch.zeros_like(pre).scatter(-1, best.indices, best.values) * sae.decoder_norm

    x = language_model.residuals(demo_model, source.capture, torch.tensor([prompt]))[0, -1]
    feature = int(activations(x).argmax())
    u = sae.W_dec[feature] / sae.decoder_norm[feature]

    def formula(x: torch.Tensor) -> torch.Tensor:
        a = activations(x)
        match method:
            case "reconstruct":
                return a @ sae.directions() + sae.b_dec
            case "ablate":
                return x - a[..., feature, None] * u
            case "clamp":
                return x + (c - a[..., feature, None]) * u
        return along(method, u, c)(x)

    change = edits.of_push(demo_model, Push(method=method, strength=c, source="s", index=feature), source)  # type: ignore[arg-type]
    row = Row(owner=0, prompt=prompt, sampling=Sampling(n_tokens=5, temperature=0), changes=(change,))
    tokens = generated(Generation(demo_model), [row])[0]
    text = torch.tensor([[*prompt, *ids(tokens)]])
    module = demo_model.model.get_submodule(source.capture.module)
    with torch.inference_mode():
        plain = demo_model.model(input_ids=text).logits
        handle = module.register_forward_hook(lambda _, __, output: with_first(output, formula))
        try:
            logits = demo_model.model(input_ids=text).logits
        finally:
            handle.remove()
    assert (logits - plain).norm() > 0.01 * plain.norm()
    expected = torch.log_softmax(logits.double(), dim=-1)[0, len(prompt) - 1 : -1]
    for token, of_step in zip(tokens, expected, strict=True):
        assert token.id == int(of_step.argmax())
        assert token.logprob == pytest.approx(float(of_step[token.id]), rel=1e-4, abs=1e-4)


def with_first(output: object, formula: Formula) -> object:
    return (formula(output[0]), *output[1:]) if isinstance(output, tuple) else formula(output)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_text_and_another_another(demo_model: language_model.LanguageModel) -> None:
    prompt = prompts.of_text(demo_model, "def ").ids
    rows = [
        Row(owner=i, prompt=prompt, sampling=Sampling(n_tokens=20, seed=seed))
        for i, seed in enumerate((1, 1, 2, -1, 2**40))
    ]
    torch.manual_seed(0)
    first = generated(Generation(demo_model), rows)
    torch.manual_seed(1)
    again = generated(Generation(demo_model), rows[::-1])
    assert {owner: ids(tokens) for owner, tokens in first.items()} == {o: ids(t) for o, t in again.items()}
    assert ids(first[0]) == ids(first[1])
    assert len({tuple(ids(tokens)) for tokens in first.values()}) == 4


def test_a_frequency_penalty_makes_a_text_repeat_itself_less(demo_model: language_model.LanguageModel) -> None:
    prompt = prompts.of_text(demo_model, "self.assertEqual(").ids
    rows = [
        Row(owner=p, prompt=prompt, sampling=Sampling(n_tokens=60, temperature=0, frequency_penalty=p))
        for p in (-1.0, 0.0, 1.0, 100.0)
    ]
    found = generated(Generation(demo_model), rows)
    distinct = [len(set(ids(found[p]))) for p in (-1.0, 0.0, 1.0, 100.0)]
    assert distinct == sorted(distinct)
    assert distinct[1] < distinct[2]
    assert distinct[3] == 60
    assert set(ids(found[100.0])) & set(prompt)  # the prompt's own tokens are not penalised


def test_log_probabilities_are_of_the_text_as_the_model_reads_it(demo_model: language_model.LanguageModel) -> None:
    prompt = prompts.of_text(demo_model, "class A:\n    def ").ids
    settings = Sampling(n_tokens=12, temperature=0.6, top_p=0.8, frequency_penalty=1.0, n_alternatives=3)
    tokens = generated(Generation(demo_model), [Row(owner=0, prompt=prompt, sampling=settings)])[0]
    with torch.inference_mode():
        logits = demo_model.model(input_ids=torch.tensor([[*prompt, *ids(tokens)]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits.double(), dim=-1)
    for token, row in zip(tokens, expected, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        best = row.topk(3)
        assert [i for i, _ in token.alternatives] == best.indices.tolist()
        assert [value for _, value in token.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_row_ends_at_its_stop_token_its_number_or_the_models_context(gpt2: language_model.LanguageModel) -> None:
    greedy = Sampling(n_tokens=6, temperature=0)
    row = Row(owner="number", prompt=(5, 9), sampling=greedy)
    whole = generated(Generation(gpt2), [row])["number"]
    assert [token.ended for token in whole] == [None] * 5 + ["length"]
    at = next(i for i, token in enumerate(whole) if i > 0 and token.id not in ids(whole[:i]))
    stopping = replace(row, owner="stop", stop_ids=frozenset({whole[at].id}))
    filling = replace(row, owner="context", prompt=(7,) * (tiny.N_CONTEXT - 3), sampling=Sampling(n_tokens=50))
    found = generated(Generation(gpt2), [stopping, filling, row])
    assert ids(found["number"]) == ids(whole)
    assert ids(found["stop"]) == ids(whole[: at + 1])
    assert found["stop"][-1].ended == "stop"
    assert [token.ended for token in found["context"]] == [None, None, "length"]


def test_removed_rows_leave_whether_they_run_or_wait(gpt2: language_model.LanguageModel) -> None:
    def rows(owner: str) -> list[Row]:
        return [Row(owner=owner, prompt=(n, 9), sampling=replace(PLAIN, seed=n)) for n in (5, 6)]

    running = Generation(gpt2)
    running.add(rows("a") + rows("b"))
    running.step()
    running.add(rows("c") + rows("d"))
    for owner in ("a", "c", "nobody"):
        running.remove(owner)
    assert [row.owner for row in running.rows] == ["b", "b", "d", "d"]
    assert running.n_rows == 4
    found = generated(running)
    assert {owner: len(tokens) for owner, tokens in found.items()} == {"b": 14, "d": 16}
    assert running.step() == []
    assert running.n_bytes == 0
    expected = generated(Generation(gpt2), rows("d"))["d"]
    assert ids(found["d"]) == ids(expected)


def test_rows_that_would_make_a_pass_too_large_wait_their_turn(
    gpt2: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PASS_TOKENS", 20)
    lengths = (4, 25, 4, 4, 30, 4)
    rows = [Row(owner=i, prompt=(9,) * n, sampling=Sampling(n_tokens=2)) for i, n in enumerate(lengths)]
    running = Generation(gpt2)
    running.add(rows)
    joined = []
    while running.n_rows:
        joined.append([event.row.owner for event in running.step()])
    assert joined == [[0, 2, 3, 5], [0, 2, 3, 5, 1], [1, 4], [4]]


def test_what_the_cache_takes_stays_below_what_was_foretold(gpt2: language_model.LanguageModel) -> None:
    rows = [Row(owner=i, prompt=(9,) * n, sampling=PLAIN) for i, n in enumerate((3, 20, 11))]
    running = Generation(gpt2)
    assert running.n_bytes == 0
    foretold = running.n_bytes_with(rows)
    running.add(rows)
    assert running.n_bytes_with() == foretold > 0
    seen = []
    while running.n_rows:
        running.step()
        seen.append(running.n_bytes)
    assert 0 < max(seen) <= foretold


def test_a_row_whose_logits_overflow_fails_alone(gpt2: language_model.LanguageModel) -> None:
    huge = stream_push(gpt2, "add", 3e38, 0, 0)
    rows = [
        Row(owner="huge", prompt=(5, 9), sampling=PLAIN, changes=(huge, huge)),
        Row(owner="fine", prompt=(5, 9), sampling=PLAIN),
    ]
    running = Generation(gpt2)
    running.add(rows)
    events = running.step()
    assert isinstance(events[0], Failure)
    assert events[0].row.owner == "huge"
    assert isinstance(events[0].error, errors.UnsupportedError)
    assert running.rows == rows[1:]
    found = generated(running)
    expected = generated(Generation(gpt2), rows[1:])
    assert ids([events[1], *found["fine"]]) == ids(expected["fine"])  # type: ignore[list-item]


def test_rows_that_mean_nothing_are_refused_before_any_joins(gpt2: language_model.LanguageModel) -> None:
    running = Generation(gpt2)
    good = Row(owner=0, prompt=(5,), sampling=PLAIN)
    for bad, message in (
        (replace(good, prompt=()), "no tokens"),
        (replace(good, prompt=(5,) * tiny.N_CONTEXT), "the model's context is 32"),
        (replace(good, sampling=Sampling(n_tokens=1, top_p=2)), "top_p is 2"),
    ):
        with pytest.raises(errors.InvalidInputError, match=message):
            running.add([good, bad])
    assert running.n_rows == 0
    generation.check_length(gpt2, 30, 2)
    with pytest.raises(errors.InvalidInputError, match="30 tokens and 3 are to follow") as caught:
        generation.check_length(gpt2, 30, 3)
    assert caught.value.hint == "Ask for at most 2."
