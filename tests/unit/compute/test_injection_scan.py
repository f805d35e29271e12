"""The scan against hooks written by hand on the plain Hugging Face model, and against what must come of it."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from backend import errors, names
from backend.cli import demo
from tests import tiny
from tests.unit.compute.test_language_model import load
from workers.compute import injection_scan, language_model
from workers.compute.injection_scan import Question, Scan
from workers.compute.language_model import LanguageModel

IDS = [0, 84, 72, 69, 221, 67, 65, 84, 221, 83, 65, 84]
POSITION, TOKEN, MINUS = 8, 70, 75
COEFFICIENTS = np.linspace(-10, 10, 5)
KINDS = ("gpt2", "llama", "gpt_neox", "gemma2", "demo")


@dataclass(frozen=True)
class Paths:
    """Where a plain Hugging Face model keeps what writes into its residual stream."""

    blocks: str
    attention: str
    mlp: str
    norm: str


PATHS = {
    "gpt2": Paths("transformer.h", "attn", "mlp", "transformer.ln_f"),
    "llama": Paths("model.layers", "self_attn", "mlp", "model.norm"),
    "gpt_neox": Paths("gpt_neox.layers", "attention", "mlp", "gpt_neox.final_layer_norm"),
    "gemma2": Paths("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "model.norm"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if kind == "demo":
        return demo.WEIGHTS / "stdlib-4l"
    return tiny.save_model(tmp_path_factory.mktemp(kind), kind=kind)


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()


def question(model: LanguageModel, place: str = "hook_resid_post", **changes: Any) -> Question:
    capture = language_model.resolve(model, names.HookPoint(1, place))
    vector = torch.randn(language_model.width(model, capture), generator=torch.Generator().manual_seed(1))
    asked = Question(
        capture=capture,
        vector=vector / vector.norm(),
        coefficients=COEFFICIENTS,
        ids=IDS,
        position=POSITION,
        token=TOKEN,
    )
    return replace(asked, **changes)


def values_of(scan: Scan) -> dict[str, Tensor]:
    return {part.name: part.values for part in scan.parts}


def assert_equal(found: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-5 * scale)


@pytest.fixture(params=["everywhere", "there"])
def is_only_there(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "there")


def test_it_equals_hooks_on_the_plain_model(kind: str, model: LanguageModel, plain: Any, is_only_there: bool) -> None:
    """Row by row, the whole text, and every component through the final norm frozen by hand."""
    asked = question(model, minus=MINUS, is_only_there_injected=is_only_there)
    found = values_of(injection_scan.scan(model, asked))
    paths = PATHS["gpt2" if kind == "demo" else kind]
    for i, coefficient in enumerate(COEFFICIENTS.tolist()):
        for name, value in by_hand(plain, paths, asked, coefficient).items():
            torch.testing.assert_close(
                found[name][i], value, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def by_hand(plain: Any, paths: Paths, asked: Question, coefficient: float) -> dict[str, Tensor]:
    blocks, norm = plain.get_submodule(paths.blocks), plain.get_submodule(paths.norm)
    seen: dict[str, Tensor] = {}

    def record(name: str, *, is_input: bool = False) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            value = (args[0] if args else kwargs["hidden_states"]) if is_input else output
            seen[name] = (value[0] if isinstance(value, tuple) else value)[0, asked.position].double()

        return hook

    def inject(module: Any, args: Any, output: Any) -> Any:
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[:, asked.position if asked.is_only_there_injected else slice(None)] += coefficient * asked.vector
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handles = [
        blocks[0].register_forward_hook(record("embedding", is_input=True), with_kwargs=True),
        norm.register_forward_hook(record("before", is_input=True), with_kwargs=True),
        blocks[1].register_forward_hook(inject),
    ]
    for layer, block in enumerate(blocks):
        for name, path in (("attention", paths.attention), ("mlp", paths.mlp)):
            handles.append(block.get_submodule(path).register_forward_hook(record(f"{layer}.{name}"), with_kwargs=True))
    try:
        with torch.no_grad():
            plain(input_ids=torch.tensor([asked.ids]))
    finally:
        for handle in handles:
            handle.remove()
    x = seen.pop("before")
    seen["injected"] = coefficient * asked.vector.double()
    W_U = plain.get_output_embeddings().weight.detach().double()
    frozen = _frozen(norm, x)
    return {name: frozen(write) @ (W_U[asked.token] - W_U[asked.minus]) for name, write in seen.items()}


def _frozen(norm: Any, x: Tensor) -> Any:
    """The norm without its bias, dividing by what it divides `x` by."""
    gain = norm.weight.detach().double() + ("Gemma" in type(norm).__name__)
    if isinstance(norm, torch.nn.LayerNorm):
        return lambda write: (write - write.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * gain
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return lambda write: write / (x.square().mean() + eps).sqrt() * gain


def uncapped(plain: Any, logits: Tensor) -> Tensor:
    """Gemma 2 caps its logits; the scan reads them before that."""
    cap = getattr(plain.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.atanh(logits / cap)


@pytest.mark.parametrize("are_heads_apart", [False, True])
@pytest.mark.parametrize("minus", [None, MINUS])
def test_the_parts_sum_to_the_models_own_logit(
    model: LanguageModel, plain: Any, minus: int | None, are_heads_apart: bool
) -> None:
    asked = question(model, minus=minus, are_heads_apart=are_heads_apart)
    scan = injection_scan.scan(model, asked)
    expected = torch.stack([own_logit(plain, asked, coefficient) for coefficient in COEFFICIENTS.tolist()])
    assert_equal(scan.total, expected)
    assert_equal(sum(values_of(scan).values()), scan.total)


def own_logit(plain: Any, asked: Question, coefficient: float) -> Tensor:
    """Of the whole plain model with a hook on block 1, less another's or the mean."""
    name = next(
        path.blocks for path in PATHS.values() if hasattr(plain, path.blocks.split(".")[0]) and _has(plain, path)
    )

    def inject(module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + coefficient * asked.vector, *output[1:])
        return output + coefficient * asked.vector

    handle = plain.get_submodule(name)[1].register_forward_hook(inject)
    try:
        with torch.no_grad():
            logits = uncapped(plain, plain(input_ids=torch.tensor([asked.ids])).logits[0, asked.position].double())
    finally:
        handle.remove()
    return logits[asked.token] - (logits.mean() if asked.minus is None else logits[asked.minus])


def _has(plain: Any, paths: Paths) -> bool:
    try:
        plain.get_submodule(paths.norm)
    except AttributeError:
        return False
    return True


def test_the_rest_is_the_biases_and_does_not_change(model: LanguageModel, plain: Any, kind: str) -> None:
    scan = injection_scan.scan(model, question(model, minus=MINUS))
    norm = plain.get_submodule(PATHS["gpt2" if kind == "demo" else kind].norm)
    W_U = plain.get_output_embeddings().weight.detach().double()
    bias = getattr(norm, "bias", None)
    expected = torch.tensor(0.0) if bias is None else bias.detach().double() @ (W_U[TOKEN] - W_U[MINUS])
    assert_equal(values_of(scan)["rest"], expected.expand(len(COEFFICIENTS)))


def test_coefficient_zero_is_the_unmodified_model(model: LanguageModel) -> None:
    asked = question(model)
    found = injection_scan.scan(model, asked)
    plain = injection_scan.scan(model, replace(asked, vector=torch.zeros_like(asked.vector)))
    zero = COEFFICIENTS.tolist().index(0.0)
    for name, values in values_of(found).items():
        assert_equal(values[zero], values_of(plain)[name][0])
    with torch.no_grad():
        logits = model.model.get_output_embeddings()(
            model.model.base_model(input_ids=torch.tensor([IDS])).last_hidden_state[0, POSITION]
        ).double()
    assert_equal(found.total[zero], logits[TOKEN] - logits.mean())
    assert (found.total[0] - found.total[zero]).abs() > 0.001, "and the others are not"


def test_heads_and_output_bias_sum_to_attention(model: LanguageModel, kind: str) -> None:
    asked = question(model)
    whole, apart = (
        values_of(injection_scan.scan(model, replace(asked, are_heads_apart=flag))) for flag in (False, True)
    )
    bias_and_rest = whole["rest"].clone()
    for layer in range(model.n_layers):
        heads = [values for name, values in apart.items() if name.startswith(f"{layer}.head.")]
        assert len(heads) == model.n_heads
        assert f"{layer}.attention" not in apart
        bias_and_rest += whole[f"{layer}.attention"] - sum(heads)
        assert_equal(apart[f"{layer}.mlp"], whole[f"{layer}.mlp"])
        if kind in ("llama", "gemma2"):  # no biases
            assert_equal(sum(heads), whole[f"{layer}.attention"])
    assert_equal(apart["rest"], bias_and_rest)


def test_a_heads_part_is_its_slice_of_the_projection(tmp_path: Path) -> None:
    """With all of the projection's rows but one head's zeroed, attention is that head and the bias."""
    folder = tiny.save_model(tmp_path)
    model, only = load(folder), load(folder)
    asked = question(model, are_heads_apart=True)
    asked = replace(asked, vector=torch.zeros_like(asked.vector), coefficients=np.zeros(1))
    projection = only.model.transformer.h[2].attn.c_proj
    width = model.d_model // model.n_heads
    with torch.no_grad():
        projection.weight[:width] = 0
    kept, alone = injection_scan.scan(model, asked), injection_scan.scan(only, asked)
    assert float(values_of(alone)["2.head.0"]) == 0.0
    per_scale = {name: values * kept.scale for name, values in values_of(kept).items()}
    assert_equal(values_of(alone)["2.head.1"] * alone.scale, per_scale["2.head.1"])


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(tiny.save_model(tmp_path_factory.mktemp(request.param), kind=request.param))


class TestWhereItIsInjected:
    """The injected vector is a component of its own; what writes there is told without it."""

    @pytest.mark.parametrize(
        ("place", "unchanged"),
        [
            ("hook_resid_pre", ["embedding", "0.attention", "0.mlp"]),
            ("hook_attn_out", ["embedding", "0.attention", "0.mlp", "1.attention"]),
            ("attn.hook_z", ["embedding", "0.attention", "0.mlp", "1.attention"]),
            ("hook_mlp_out", ["embedding", "0.attention", "0.mlp", "1.attention", "1.mlp"]),
            ("mlp.hook_post", ["embedding", "0.attention", "0.mlp", "1.attention", "1.mlp"]),
            ("hook_resid_post", ["embedding", "0.attention", "0.mlp", "1.attention", "1.mlp"]),
        ],
    )
    def test_what_came_before_changes_by_the_final_norm_only(
        self, small: LanguageModel, place: str, unchanged: list[str]
    ) -> None:
        scan = injection_scan.scan(small, question(small, place))
        written = {name: values * scan.scale for name, values in values_of(scan).items() if name != "rest"}
        noise = 1e-5 * max(float(values.abs().max()) for values in written.values())
        is_side_by_side = "NeoX" in type(small.model).__name__
        before = {*unchanged, *(["1.mlp"] if is_side_by_side and "1.attention" in unchanged else [])}
        assert {name for name, values in written.items() if values.max() - values.min() < noise} == before

    def test_inside_a_projection_is_the_same_as_after_it(self, small: LanguageModel) -> None:
        for inside, after in (("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out")):
            asked = question(small, inside)
            write = language_model.residual_map(small, asked.capture)
            expected = injection_scan.scan(small, question(small, after, vector=asked.vector @ write))
            found = injection_scan.scan(small, asked)
            for name, values in values_of(expected).items():
                assert_equal(values_of(found)[name], values)

    def test_between_attention_and_mlp_is_the_same_as_after_attention(self, tmp_path: Path) -> None:
        for kind in ("gpt2", "llama", "gemma2"):
            model = load(tiny.save_model(tmp_path / kind, kind=kind))
            found, expected = (
                values_of(injection_scan.scan(model, question(model, place)))
                for place in ("hook_resid_mid", "hook_attn_out")
            )
            for name, values in expected.items():
                assert_equal(found[name], values)

    def test_with_heads_apart_they_are_told_without_it(self, small: LanguageModel) -> None:
        scan = injection_scan.scan(small, question(small, "attn.hook_z", are_heads_apart=True))
        for head in range(small.n_heads):
            written = values_of(scan)[f"1.head.{head}"] * scan.scale
            assert_equal(written, written[:1].expand(len(written)))


COMMON = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": tiny.N_CONTEXT, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
GROUPED = COMMON | {"num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPTNeo": {**COMMON, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "GPTJ": {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": tiny.N_CONTEXT},
    "GPTNeoX": COMMON | {"use_parallel_residual": False},
    "Mistral": GROUPED,
    "Mixtral": GROUPED | {"num_local_experts": 4},
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 8},
    "Phi": COMMON,
    "OPT": COMMON | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "Bloom": {**COMMON, "n_layer": 2, "n_head": 4},
    "Falcon": COMMON | {"parallel_attn": True, "new_decoder_architecture": False, "bias": False},
    "Olmo2": GROUPED,
}


def built(folder: Path, name: str, **config: Any) -> LanguageModel:
    """A random model of an architecture, its biases other than zero."""
    n_vocab = tiny.save_tokenizer(folder)
    shape = getattr(transformers, f"{name}Config")(vocab_size=n_vocab, **config)
    torch.manual_seed(0)
    hugging = transformers.AutoModelForCausalLM.from_config(shape, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter_name, parameter in hugging.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    shape.architectures = [type(hugging).__name__]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return language_model.from_parts(hugging, tokenizer, shape, name=str(folder), device=torch.device("cpu"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architectures_the_documents_name_are_taken_apart(name: str, tmp_path: Path) -> None:
    """Their parts are all there is: the scan refuses where the rest is more than biases."""
    model = built(tmp_path, name, **ARCHITECTURES[name])
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([IDS])).logits[0, POSITION].double()
    for are_heads_apart in (False, True):
        scan = injection_scan.scan(model, question(model, are_heads_apart=are_heads_apart))
        assert_equal(scan.total[len(COEFFICIENTS) // 2], logits[TOKEN] - logits.mean())
        assert len(scan.parts) == 3 + 2 * (1 + (model.n_heads if are_heads_apart else 1))


def test_a_stream_that_blocks_hold_flat_is_changed_between_attention_and_mlp_too(tmp_path: Path) -> None:
    model = built(tmp_path, "OPT", **ARCHITECTURES["OPT"])
    found, expected = (
        values_of(injection_scan.scan(model, question(model, place))) for place in ("hook_resid_mid", "hook_attn_out")
    )
    for name, values in expected.items():
        assert_equal(found[name], values)


def test_a_model_that_scales_its_writes_is_refused(tmp_path: Path) -> None:
    model = built(tmp_path, "Granite", residual_multiplier=0.5, **GROUPED)
    with pytest.raises(errors.UnsupportedError, match="computed inside a module"):
        injection_scan.scan(model, question(model))


def test_rows_split_over_passes_give_the_same(model: LanguageModel) -> None:
    asked = question(model)
    together, apart = injection_scan.scan(model, asked), injection_scan.scan(model, asked, memory_bytes=1)
    for name, values in values_of(together).items():
        assert_equal(values_of(apart)[name], values)


def test_the_text_after_the_token_does_not_matter(model: LanguageModel) -> None:
    asked = question(model)
    longer = injection_scan.scan(model, replace(asked, ids=[*IDS[: POSITION + 1], *reversed(IDS)]))
    assert torch.equal(longer.total, injection_scan.scan(model, asked).total)


def test_the_model_is_left_as_it_was(model: LanguageModel) -> None:
    with torch.no_grad():
        before = model.model(input_ids=torch.tensor([IDS])).logits
        injection_scan.scan(model, question(model))
        with pytest.raises(errors.UnsupportedError, match="beyond what numbers hold"):
            injection_scan.scan(model, question(model, coefficients=np.array([0.0, 3e38, 3.4e38])))
        assert torch.equal(model.model(input_ids=torch.tensor([IDS])).logits, before)


def test_half_precision_is_explained_within_its_rounding(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path)
    half = language_model.load(str(folder), device=torch.device("cpu"), dtype=torch.bfloat16)
    found, expected = (injection_scan.scan(each, question(each, are_heads_apart=True)) for each in (half, load(folder)))
    torch.testing.assert_close(found.total, expected.total, rtol=0.05, atol=0.05)


class TestRefused:
    """What cannot be added, or taken apart."""

    @pytest.fixture
    def gemma2(self, tmp_path: Path) -> LanguageModel:
        return load(tiny.save_model(tmp_path, kind="gemma2"))

    @pytest.mark.parametrize(("place", "after"), [("attn.hook_z", "hook_attn_out"), ("mlp.hook_post", "hook_mlp_out")])
    def test_a_norm_between_the_place_and_the_stream(self, gemma2: LanguageModel, place: str, after: str) -> None:
        with pytest.raises(errors.UnsupportedError, match="through a norm") as refused:
            injection_scan.scan(gemma2, question(gemma2, place))
        assert after in refused.value.hint

    def test_a_place_that_cannot_be_replaced(self, tmp_path: Path) -> None:
        model = load(tiny.save_model(tmp_path))
        with pytest.raises(errors.UnsupportedError, match="read by more than"):
            injection_scan.scan(model, question(model, "ln2.hook_in"))

    def test_blocks_that_write_something_else_as_well(self, tmp_path: Path) -> None:
        model = load(tiny.save_model(tmp_path))
        spike = torch.zeros(model.d_model).index_fill(0, torch.tensor([3]), 5.0)
        model.model.transformer.h[2].register_forward_hook(lambda module, args, output: output + spike)
        with pytest.raises(errors.UnsupportedError, match=r"do not add up to its logit: \d+\.\d% is missing"):
            injection_scan.scan(model, question(model))
