"""The fast capture path and the unembedding, against TransformerLens itself."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers

from backend import errors, names
from tests import tiny
from workers.compute import language_model

CPU = torch.device("cpu")
PLACES = [
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_post",
    "mlp.hook_in",
    "ln1.hook_normalized",
    "ln2.hook_normalized",
]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp(request.param), kind=request.param)


def load(folder: Path) -> language_model.LanguageModel:
    return language_model.load(str(folder), device=CPU, dtype=torch.float32)


def boot_bridge(folder: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("place", PLACES)
def test_capture_equals_transformer_lens(folder: Path, place: str) -> None:
    model = load(folder)
    hook_point = names.HookPoint(1, place)
    tokens = torch.randint(1, 200, (4, tiny.N_CONTEXT), generator=torch.Generator().manual_seed(0))
    found = language_model.residuals(model, language_model.resolve(model, hook_point), tokens)
    with torch.no_grad():
        _, cache = boot_bridge(folder).run_with_cache(tokens, names_filter=[str(hook_point)])
    expected = cache[str(hook_point)].reshape(found.shape)
    # eager against fused attention; design.md §3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def test_several_hook_points_in_one_pass_equal_each_alone_from_threads_too(folder: Path) -> None:
    model = language_model.load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    places = [
        names.HookPoint(2, "hook_resid_post"),
        names.HookPoint(0, "hook_resid_pre"),
        names.HookPoint(1, "attn.hook_z"),
    ]
    captures = [language_model.resolve(model, place) for place in places]
    texts = [torch.randint(1, 250, (2, 12), generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    alone = [[language_model.residuals(model, capture, text) for capture in captures] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: language_model.residuals_at(model, captures, text), texts))
    for expected, found in zip(alone, together, strict=True):
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gelu_is_fused_and_gives_the_same(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "gpt2")
    fused = language_model.load(str(folder), device=torch.device("cpu"), dtype=torch.float32).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    assert any(isinstance(module, torch.nn.GELU) for module in fused.modules())
    assert not any(isinstance(module, torch.nn.GELU) for module in plain.modules())
    tokens = torch.arange(1, 21)[None]
    with torch.no_grad():
        torch.testing.assert_close(fused(tokens).logits, plain(tokens).logits, rtol=1e-5, atol=1e-5)


def test_unembedding_equals_transformer_lens_processed_weights(folder: Path) -> None:
    bridge = boot_bridge(folder)
    bridge.enable_compatibility_mode()
    torch.testing.assert_close(language_model.unembedding(load(folder)), bridge.W_U.detach(), rtol=1e-4, atol=1e-5)


def test_hook_z_and_mlp_neurons_reach_the_stream_through_their_output_weights(folder: Path) -> None:
    model, bridge = load(folder), boot_bridge(folder)
    for place, weight in (("attn.hook_z", bridge.blocks[1].attn.W_O), ("mlp.hook_post", bridge.blocks[1].mlp.W_out)):
        found = language_model.residual_map(model, language_model.resolve(model, names.HookPoint(1, place)))
        torch.testing.assert_close(found, weight.detach().reshape(found.shape))


def test_centred_writing_weights_are_those_of_transformer_lens(tmp_path: Path) -> None:
    """The residual stream of the centred model is the plain one less each vector's mean."""
    folder = tiny.save_model(tmp_path / "m")
    model = load(folder)
    hook_point = names.HookPoint(1, "hook_resid_pre")
    tokens = torch.randint(1, 200, (4, tiny.N_CONTEXT), generator=torch.Generator().manual_seed(0))
    found = language_model.residuals(model, language_model.resolve(model, hook_point, is_centred=True), tokens)
    bridge = boot_bridge(folder)
    bridge.process_weights(
        fold_ln=False, center_writing_weights=True, center_unembed=False, fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )  # fmt: skip
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens, names_filter=[str(hook_point)])
    torch.testing.assert_close(found, cache[str(hook_point)], rtol=1e-4, atol=2e-5)
    plain = language_model.residuals(model, language_model.resolve(model, hook_point), tokens)
    assert (plain - found).abs().max() > 0.01


def test_what_cannot_be_captured_is_refused_with_what_can(folder: Path) -> None:
    model = load(folder)
    with pytest.raises(errors.UnsupportedError, match="blocks 0 to 2"):
        language_model.resolve(model, names.HookPoint(7, "hook_resid_post"))
    with pytest.raises(errors.UnsupportedError, match="does not exist"):
        language_model.resolve(model, names.HookPoint(1, "hook_nonsense"))
    with pytest.raises(errors.UnsupportedError, match="inside a module"):
        language_model.resolve(model, names.HookPoint(1, "attn.hook_pattern"))


def test_centring_an_rms_model_is_refused(tmp_path: Path) -> None:
    model = load(tiny.save_model(tmp_path / "m", kind="llama"))
    with pytest.raises(errors.UnsupportedError, match="RMSNorm"):
        language_model.resolve(model, names.HookPoint(1, "hook_resid_post"), is_centred=True)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInputError, match="not a model folder"):
        language_model.load(str(tmp_path), device=CPU, dtype=torch.float32)


def test_vocabulary_reads_as_text(tmp_path: Path) -> None:
    words = language_model.vocabulary(load(tiny.save_model(tmp_path / "m")))
    assert words[0] == tiny.SEPARATOR
    assert " the" in words
    assert "\n" in words
    assert "\\xe2" in words


def test_vocabulary_of_a_sentencepiece_model_keeps_spaces() -> None:
    folder = tiny.SHARED / "models" / "tinystories-260k"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}")
    words = language_model.vocabulary(load(folder))
    assert " there" in words
    assert "\n" in words
    assert len(words) == 512
