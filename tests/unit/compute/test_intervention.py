"""Replacing activations, against TransformerLens's hooks and against what must come of it by hand."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from backend import errors, names
from tests import tiny
from tests.unit.compute.test_language_model import boot_bridge, load
from workers.compute import intervention, language_model

PLACES = ["hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp(request.param), kind=request.param)


def tokens_of(n: int = 3) -> torch.Tensor:
    return torch.randint(1, 200, (n, tiny.N_CONTEXT), generator=torch.Generator().manual_seed(0))


def bend(x: torch.Tensor) -> torch.Tensor:
    """Changes every position and coordinate in another way."""
    return x * torch.linspace(-1, 1.5, x.shape[-1]) + torch.linspace(0, 0.5, x.shape[1])[:, None]


@pytest.mark.parametrize("place", PLACES)
def test_replacing_equals_transformer_lens(folder: Path, place: str) -> None:
    model, hook_point = load(folder), names.HookPoint(1, place)
    found = intervention.run_with(model, language_model.resolve(model, hook_point), tokens_of(), bend)

    def hook(x: torch.Tensor, hook: object) -> torch.Tensor:
        return bend(x.flatten(2)).reshape(x.shape)

    with torch.no_grad():
        expected = boot_bridge(folder).run_with_hooks(tokens_of(), fwd_hooks=[(str(hook_point), hook)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", [*PLACES, "hook_resid_mid"])
def test_an_edit_that_changes_nothing_changes_nothing(folder: Path, place: str) -> None:
    model = load(folder)
    capture = language_model.resolve(model, names.HookPoint(1, place))
    seen: list[torch.Tensor] = []
    found = intervention.run_with(model, capture, tokens_of(), lambda x: seen.append(x) or x)
    with torch.inference_mode():
        assert torch.equal(found, model.model(input_ids=tokens_of()).logits)
    assert torch.equal(seen[0], language_model.residuals(model, capture, tokens_of()))


def test_the_stream_between_attention_and_mlp_is_replaced_for_the_skip_connection_too(folder: Path) -> None:
    """mid = pre + attention, so a change of mid is the same change of what attention wrote."""
    model = load(folder)
    at_mid, at_attention = (
        language_model.resolve(model, names.HookPoint(1, place)) for place in ("hook_resid_mid", "hook_attn_out")
    )
    change = bend(language_model.residuals(model, at_mid, tokens_of()))
    found = intervention.run_with(model, at_mid, tokens_of(), lambda x: x + change)
    expected = intervention.run_with(model, at_attention, tokens_of(), lambda x: x + change)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_afterwards_even_after_an_error(folder: Path) -> None:
    model = load(folder)
    with torch.inference_mode():
        before = model.model(input_ids=tokens_of()).logits
    for place in (*PLACES, "hook_resid_mid"):
        capture = language_model.resolve(model, names.HookPoint(1, place))
        with pytest.raises(ZeroDivisionError):
            intervention.run_with(model, capture, tokens_of(), lambda x: x / (1 // 0))
    with torch.inference_mode():
        assert torch.equal(model.model(input_ids=tokens_of()).logits, before)


def test_another_threads_forward_pass_is_left_alone(folder: Path) -> None:
    model = load(folder)
    with torch.inference_mode():
        expected = model.model(input_ids=tokens_of()).logits
    shape = torch.Size((2, 5))
    with contextlib.ExitStack() as hooks, ThreadPoolExecutor(1) as other:
        for place in ("hook_resid_mid", "hook_resid_post", "attn.hook_z"):
            capture = language_model.resolve(model, names.HookPoint(1, place))
            hooks.enter_context(intervention.replaced(model, capture, shape, torch.zeros_like))

        def forward() -> torch.Tensor:
            with torch.inference_mode():
                return model.model(input_ids=tokens_of()).logits

        assert torch.equal(other.submit(forward).result(), expected)


def test_several_places_are_replaced_in_one_forward_pass(folder: Path) -> None:
    model = load(folder)
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for place in ("hook_resid_mid", "hook_mlp_out", "hook_resid_post"):
            capture = language_model.resolve(model, names.HookPoint(1, place))
            hooks.enter_context(intervention.replaced(model, capture, tokens_of().shape, lambda x: x + 1.5))
        found = model.model(input_ids=tokens_of()).logits
    once = intervention.run_with(
        model, language_model.resolve(model, names.HookPoint(1, "hook_resid_post")), tokens_of(), lambda x: x
    )
    assert not torch.allclose(found, once)
    mid = language_model.residuals(
        model, language_model.resolve(model, names.HookPoint(1, "hook_resid_mid")), tokens_of()
    )

    def all_three(x: torch.Tensor) -> torch.Tensor:
        """The MLP of what it reads, shifted, is what is new in the block's output."""
        block = model.model.get_submodule(f"{model.bridge.adapter.component_mapping['blocks'].name}.1")
        norm, mlp = (block.ln_2, block.mlp) if hasattr(block, "ln_2") else (block.post_attention_layernorm, block.mlp)
        return mid + 1.5 + mlp(norm(mid + 1.5)) + 1.5 + 1.5

    expected = intervention.run_with(
        model, language_model.resolve(model, names.HookPoint(1, "hook_resid_post")), tokens_of(), all_three
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_centred_vectors_are_edited_and_their_means_put_back(tmp_path: Path) -> None:
    """Under LayerNorm a constant along the residual stream is invisible, so the centred edit says it all."""
    model = load(tiny.save_model(tmp_path / "m"))
    capture = language_model.resolve(model, names.HookPoint(1, "hook_resid_pre"), is_centred=True)
    seen: list[torch.Tensor] = []
    zeroed = intervention.run_with(model, capture, tokens_of(), lambda x: seen.append(x) or torch.zeros_like(x))
    assert seen[0].mean(dim=-1).abs().max() < 1e-5
    plain = language_model.resolve(model, names.HookPoint(1, "hook_resid_pre"))
    constant = intervention.run_with(model, plain, tokens_of(), lambda x: torch.zeros_like(x) + 0.25)
    torch.testing.assert_close(zeroed, constant, rtol=1e-3, atol=1e-3)


def test_an_input_that_others_read_too_is_refused(folder: Path) -> None:
    model = load(folder)
    capture = language_model.resolve(model, names.HookPoint(1, "ln2.hook_in"))
    with pytest.raises(errors.UnsupportedError, match="read by more than"):
        intervention.run_with(model, capture, tokens_of(), lambda x: x)
