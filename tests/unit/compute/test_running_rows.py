"""Rows that join, go on and leave: the logits of each are those of its text alone, with a cache and without."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backend import errors
from backend.formats.messages import Push, Sampling
from tests import architectures, tiny
from tests.unit.compute.test_language_model import load
from workers.compute import edits, language_model, running_rows
from workers.compute.running_rows import CachedRows, Row, RunningRows, WholeRows

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [[5, 9, 11, 30, 7, 2, 99, 41, 3], [17], [8, 8, 60, 12], [44, 3], [21, 90, 14, 6, 77, 13]]


@pytest.fixture(scope="module", params=list(architectures.CONFIGS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(architectures.save(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(architectures.save(tmp_path_factory.mktemp("one"), "gpt2"))


def row(ids: list[int], *changes: edits.Change, are_special_tokens_pushed: bool = True) -> Row:
    return Row(
        owner=0, prompt=tuple(ids), sampling=Sampling(n_tokens=1), changes=changes,
        are_special_tokens_pushed=are_special_tokens_pushed,
    )  # fmt: skip


def alone(model: language_model.LanguageModel, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]


class Batch:
    """Rows and what they hold; every call checks all logits it gets."""

    def __init__(self, model: language_model.LanguageModel, running: RunningRows) -> None:
        self.model, self.running = model, running
        self.texts: list[list[int]] = []
        self.next = 31

    def join(self, *texts: list[int]) -> None:
        self.texts += [list(text) for text in texts]
        self._check(self.running.join([row(text) for text in texts]), self.texts[-len(texts) :])

    def advance(self) -> None:
        tokens = []
        for text in self.texts:
            self.next = self.next * 37 % 101
            text.append(self.next)
            tokens.append(self.next)
        self._check(self.running.advance(np.array(tokens)), self.texts)

    def keep(self, *kept: int) -> None:
        self.texts = [self.texts[i] for i in kept]
        self.running.keep(np.array(kept, np.int64))
        assert len(self.running.rows) == len(kept)

    def _check(self, found: torch.Tensor, texts: list[list[int]]) -> None:
        expected = torch.stack([alone(self.model, text) for text in texts])
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def drive(batch: Batch) -> None:
    batch.join(TEXTS[1], TEXTS[0])
    batch.advance()
    batch.join(TEXTS[2])
    batch.advance()
    batch.advance()
    batch.keep(0, 2)  # the longest leaves, and its columns with it
    batch.advance()
    batch.join(TEXTS[4], TEXTS[3], TEXTS[0])
    for _ in range(8):
        batch.advance()
    batch.keep(3)
    batch.advance()
    batch.keep()
    batch.join(TEXTS[2])
    batch.advance()


def test_each_row_has_the_logits_of_its_text_alone(model: language_model.LanguageModel) -> None:
    running, reason = running_rows.fitting(model)
    is_cached = isinstance(running, CachedRows)
    assert (is_cached, bool(reason)) == ((False, True) if model.model.config.model_type == "mamba" else (True, False))
    drive(Batch(model, running))


def test_without_a_cache_too(model: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_rows, "PASS_TOKENS", 20)  # several forward passes a token
    drive(Batch(model, WholeRows(model)))


def test_a_row_may_fill_the_models_context_beside_shorter_ones(gpt2: language_model.LanguageModel) -> None:
    batch = Batch(gpt2, CachedRows(gpt2))
    batch.join(list(range(1, tiny.N_CONTEXT - 1)), TEXTS[1])
    batch.advance()
    batch.advance()


def test_what_stands_before_a_shorter_row_is_finite(model: language_model.LanguageModel) -> None:
    """NaN there would reach the row: zero weight times NaN is NaN."""
    running = running_rows.fitting(model)[0]
    running.join([row(TEXTS[0]), row(TEXTS[1])])
    running.advance(np.array([4, 5]))
    if isinstance(running, CachedRows):
        assert running._cache is not None
        for layer in running._cache.layers:
            assert layer.keys.isfinite().all()
            assert layer.values.isfinite().all()


def test_columns_that_no_row_needs_are_cut_off_and_bytes_follow(gpt2: language_model.LanguageModel) -> None:
    running = CachedRows(gpt2)
    assert running.n_bytes == running.n_bytes_of(9, 9) == 0
    running.join([row(TEXTS[0]), row(TEXTS[2])])
    assert running.column_bytes == 3 * 2 * 16 * 4  # layers, keys and values, d_model, fp32
    assert running.n_bytes == 2 * len(TEXTS[0]) * running.column_bytes
    running.keep(np.array([1]))
    assert running._cache is not None
    assert running._cache.n_columns == len(TEXTS[2])
    assert running.n_bytes == running.n_bytes_of(1, len(TEXTS[2]))
    running.keep(np.zeros(0, np.int64))
    assert running.n_bytes == 0


def test_keys_are_not_copied_at_every_token(gpt2: language_model.LanguageModel) -> None:
    running = CachedRows(gpt2)
    running.join([row(TEXTS[1])])
    running.join([row(TEXTS[2])])
    assert running._cache is not None
    place = running._cache.layers[0].keys.data_ptr()
    for _ in range(10):
        running.advance(np.array([3, 4]))
    assert running._cache.layers[0].keys.data_ptr() == place


def test_rows_are_changed_each_by_its_own_changes_at_prompt_and_generated_tokens(
    model: language_model.LanguageModel,
) -> None:
    """A shift of every residual is what a bias of the block before would do."""
    vector = torch.linspace(-1, 1, 16) * 3
    push = Push(strength=1.0, hook_point="blocks.1.hook_resid_pre", vector=tuple(vector.tolist()))
    change = edits.of_push(model, push)
    running = running_rows.fitting(model)[0]
    running.join([row(TEXTS[0]), row(TEXTS[2], change)])
    running.join([row(TEXTS[1], change)])
    found = running.advance(np.array([1, 2, 3]))
    block = model.model.get_submodule(model.bridge.adapter.component_mapping["blocks"].name)[1]

    def shifted(_: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]) -> object:
        if not args:
            return args, kwargs | {"hidden_states": kwargs["hidden_states"] + vector}
        return (args[0] + vector, *args[1:]), kwargs

    torch.testing.assert_close(found[0], alone(model, [*TEXTS[0], 1]), rtol=1e-4, atol=1e-4)
    handle = block.register_forward_pre_hook(shifted, with_kwargs=True)
    try:
        expected = torch.stack([alone(model, [*TEXTS[2], 2]), alone(model, [*TEXTS[1], 3])])
    finally:
        handle.remove()
    torch.testing.assert_close(found[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [CachedRows, WholeRows])
def test_special_tokens_are_left_alone_where_asked(gpt2: language_model.LanguageModel, kind: type[RunningRows]) -> None:
    push = Push(strength=1.0, hook_point="blocks.0.hook_resid_post", vector=tuple([4.0] * 8 + [0.0] * 8))
    change = edits.of_push(gpt2, push)
    text = [0, 7, 9, 0, 12]
    running = kind(gpt2)
    running.join([row(text, change), row(text, change, are_special_tokens_pushed=False)])
    found = running.advance(np.array([0, 0]))
    capture = language_model.resolve(gpt2, change.capture.hook_point)
    kept = torch.tensor([[1, 0, 0, 1, 0, 1]])[..., None]
    for logits, is_kept in zip(found, (kept * 0, kept), strict=True):
        moved = torch.tensor(push.vector) * (1 - is_kept)

        def edit(x: torch.Tensor, moved: torch.Tensor = moved) -> torch.Tensor:
            return x + moved

        expected = running_rows.intervention.run_with(gpt2, capture, torch.tensor([[*text, 0]]), edit)
        torch.testing.assert_close(logits, expected[0, -1], rtol=1e-4, atol=1e-4)


def test_an_architecture_whose_cache_is_wrong_is_run_without(
    gpt2: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(running_rows.fitting(gpt2)[0], CachedRows)
    monkeypatch.setattr(running_rows.KeyValueCache, "join", lambda self, other: None)
    assert isinstance(running_rows.fitting(gpt2)[0], WholeRows)
    monkeypatch.undo()
    forward = gpt2.model.transformer.forward

    def deaf(*args: object, position_ids: object = None, **kwargs: object) -> object:
        return forward(*args, **kwargs)

    monkeypatch.setattr(gpt2.model.transformer, "forward", deaf)  # positions counted from the padding
    assert isinstance(running_rows.fitting(gpt2)[0], WholeRows)


def test_an_architecture_that_neither_way_suits_is_refused(
    gpt2: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = gpt2.model.transformer.forward

    def across(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(dim=0)
        return output

    monkeypatch.setattr(gpt2.model.transformer, "forward", across)
    with pytest.raises(errors.UnsupportedError, match="cannot generate here"):
        running_rows.fitting(gpt2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_held_to_its_own_tolerance(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = architectures.save(tmp_path / "m", "llama")
    model = language_model.load(str(folder), device=torch.device("cpu"), dtype=dtype)
    assert isinstance(running_rows.fitting(model)[0], CachedRows)
