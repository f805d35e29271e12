"""Each method of steering against a hook written by hand on the plain Hugging Face model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from backend import errors, names
from backend.formats.messages import Push, Sampling
from tests import architectures, tiny
from tests.unit.compute.test_language_model import load
from workers import runtime
from workers.compute import edits, encoder, language_model
from workers.compute.running_rows import CachedRows, Row

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = ("add", "orthogonal", "cap", "ablate", "clamp")
PROMPT, GENERATED = [5, 9, 11, 30, 7], [2, 99]
FEATURE, C = 7, 1.5
Formula = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(architectures.save(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(architectures.save(tmp_path_factory.mktemp("one"), "gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(architectures.save(tmp_path_factory.mktemp("grouped"), "llama"))


def source_of(model: language_model.LanguageModel, weights: str, hook: str = "") -> edits.Source:
    found = runtime.source_at(model, runtime.SaeFiles(weights), hook)
    return edits.Source(found.encoder, found.capture, runtime.written_at_hook(model, found))


def sae_source(model: language_model.LanguageModel, folder: Path, **config: object) -> edits.Source:
    return source_of(model, str(tiny.save_sae(folder, **config)))  # type: ignore[arg-type]


def steered(model: language_model.LanguageModel, *changes: edits.Change) -> torch.Tensor:
    """Logits of a row that is changed, in a batch where a longer one is not, at its prompt's end and after two tokens."""
    running = CachedRows(model)
    rows = [[1, 2, 3, 4, *PROMPT], PROMPT]
    logits = [
        running.join(
            [
                Row(owner=0, prompt=tuple(ids), sampling=Sampling(n_tokens=1), changes=changes * i)
                for i, ids in enumerate(rows)
            ]
        )
    ]
    logits += [running.advance(np.array([token, token])) for token in GENERATED]
    return torch.stack([each[1] for each in logits])


def by_hand(model: language_model.LanguageModel, *hooks: tuple[str, Formula], is_input: bool = False) -> torch.Tensor:
    """The same of the plain model, its modules' outputs (or inputs) changed by formulas."""
    handles = []
    for path, formula in hooks:

        def after(_: object, __: object, output: object, formula: Formula = formula) -> object:
            return (formula(output[0]), *output[1:]) if isinstance(output, tuple) else formula(output)

        def before(_: object, args: tuple[torch.Tensor, ...], formula: Formula = formula) -> object:
            return (formula(args[0]), *args[1:])

        module = model.model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(before) if is_input else module.register_forward_hook(after))
    try:
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([[*PROMPT, *GENERATED]]), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[0, len(PROMPT) - 1 :]


def block(model: language_model.LanguageModel, layer: int = 1) -> str:
    return f"{model.bridge.adapter.component_mapping['blocks'].name}.{layer}"


def assert_like(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def along(method: str, v: torch.Tensor, c: float = C) -> Formula:
    """The methods on a vector, as written in `edits`."""

    def formula(x: torch.Tensor) -> torch.Tensor:
        u = v / v.norm()
        part = (x @ u)[..., None]
        match method:
            case "add":
                return x + c * v
            case "orthogonal":
                return x - part * u + c * v
            case "cap":
                return x - (part - c).clamp(min=0) * u
            case "ablate":
                return x - part * u
        return x + (c - part) * u

    return formula


def own_vector() -> torch.Tensor:
    return torch.linspace(-1, 2, 16)


def pushed(method: str, strength: float = C, hook_point: str = "blocks.1.hook_resid_post") -> Push:
    return Push(method=method, strength=strength, hook_point=hook_point, vector=tuple(own_vector().tolist()))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_is_pushed_as_by_hand(model: language_model.LanguageModel, method: str) -> None:
    change = edits.of_push(model, pushed(method))
    expected = by_hand(model, (block(model), along(method, own_vector())))
    assert (expected - by_hand(model)).norm() > 0.02 * expected.norm()
    assert_like(steered(model, change), expected)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
@pytest.mark.parametrize("method", [*METHODS, "reconstruct"])
def test_a_feature_is_pushed_as_by_hand(
    gpt2: language_model.LanguageModel, tmp_path: Path, architecture: str, method: str
) -> None:
    source = sae_source(gpt2, tmp_path / "sae", architecture=architecture)
    change = edits.of_push(gpt2, Push(method=method, strength=C, source="s", index=FEATURE), source)  # type: ignore[arg-type]
    sae = source.encoder.sae
    u = sae.W_dec[FEATURE] / sae.W_dec[FEATURE].norm()

    def activations(x: torch.Tensor) -> torch.Tensor:
        """Of all features in the SAE's own units; SAELens's formulas."""
        pre = (x - sae.b_dec) @ sae.W_enc + (sae.b_enc if architecture != "gated" else 0)
        match architecture:
            case "standard":
                return pre.relu()
            case "jumprelu":
                return pre * (pre > sae.threshold)
            case "gated":
                return (pre * sae.magnitude_gain + sae.b_enc).relu() * (pre + sae.b_gate > 0)
        best = pre.topk(5)
        return torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())

    def formula(x: torch.Tensor) -> torch.Tensor:
        a = activations(x)
        match method:
            case "reconstruct":
                return a @ sae.W_dec + sae.b_dec
            case "ablate":
                return x - a[..., FEATURE, None] * sae.W_dec[FEATURE]
            case "clamp":
                return x + (C - a[..., FEATURE, None] * sae.W_dec[FEATURE].norm()) * u
        return along(method, u)(x)

    expected = by_hand(gpt2, (block(gpt2), formula))
    assert_like(steered(gpt2, change), expected)


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_what_a_feature_of_a_normalised_sae_writes_is_taken_out(
    gpt2: language_model.LanguageModel, tmp_path: Path, normalization: str
) -> None:
    """x less its reconstruction with the feature, plus that without it."""
    source = sae_source(gpt2, tmp_path / "sae", architecture="standard", normalize_activations=normalization)
    change = edits.of_push(gpt2, Push(method="ablate", source="s", index=FEATURE), source)
    sae = source.encoder.sae
    assert isinstance(source.encoder, encoder.Encoder)

    def formula(x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, 16)
        a = (encoder.normalise(sae, flat) @ sae.W_enc + sae.b_enc).relu()[:, FEATURE, None] * sae.W_dec[FEATURE]
        if normalization == "layer_norm":
            a = a * (flat - flat.mean(dim=-1, keepdim=True)).std(dim=-1, keepdim=True)
        else:
            a = a * flat.norm(dim=-1, keepdim=True) / 4
        assert a.abs().max() > 0.1
        return (flat - a).reshape(x.shape)

    assert_like(steered(gpt2, change), by_hand(gpt2, (block(gpt2), formula)))


def test_several_pushes_are_made_in_the_order_given_where_they_meet(
    gpt2: language_model.LanguageModel, tmp_path: Path
) -> None:
    source = sae_source(gpt2, tmp_path / "sae", architecture="standard")
    sae, v = source.encoder.sae, own_vector()
    later = "blocks.2.hook_resid_post"
    pushes = [
        pushed("add", 0.5), pushed("add", 0.25), pushed("cap", -2.0),
        Push(method="clamp", strength=2.0, source="s", index=FEATURE),
        pushed("orthogonal", 1.0, later), Push(method="reconstruct", source="s"), pushed("add", -0.5),
    ]  # fmt: skip
    changes = [edits.of_push(gpt2, push, source if push.source else None) for push in pushes]

    def activations(x: torch.Tensor) -> torch.Tensor:
        return ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()

    def formula(x: torch.Tensor) -> torch.Tensor:
        x = along("cap", v, -2.0)(x + 0.5 * v + 0.25 * v)
        norm = sae.W_dec[FEATURE].norm()
        x = x + (2.0 / norm - activations(x)[..., FEATURE, None]) * sae.W_dec[FEATURE]
        return activations(x) @ sae.W_dec + sae.b_dec - 0.5 * v

    expected = by_hand(gpt2, (block(gpt2), formula), (block(gpt2, 2), along("orthogonal", v, 1.0)))
    assert_like(steered(gpt2, *changes), expected)


def test_rows_with_different_changes_at_one_place_do_not_touch_each_other(
    model: language_model.LanguageModel, tmp_path: Path
) -> None:
    source = sae_source(model, tmp_path / "sae", architecture="standard")
    pushes = [
        None, pushed("add"), pushed("cap", -3.0), Push(method="clamp", strength=3.0, source="s", index=FEATURE),
        Push(method="ablate", source="s", index=9), Push(method="reconstruct", source="s"), pushed("ablate"),
    ]  # fmt: skip
    changes = [
        () if push is None else (edits.of_push(model, push, source if push.source else None),) for push in pushes
    ]
    together, last = CachedRows(model), []
    rows = [
        Row(owner=0, prompt=(*range(1, i + 2), *PROMPT), sampling=Sampling(n_tokens=1), changes=change)
        for i, change in enumerate(changes)
    ]
    together.join(rows)
    for each in rows:
        running = CachedRows(model)
        running.join([each])
        last.append(running.advance(np.array([2]))[0])
    assert_like(together.advance(np.full(len(rows), 2)), torch.stack(last))
    assert len({round(float(each.sum()), 3) for each in last}) == len(rows)


@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out"])
def test_places_inside_a_block(llama: language_model.LanguageModel, place: str) -> None:
    """In a pre-norm block all four are what a change of the sublayers' outputs, or of the block before, does."""
    change = edits.of_push(llama, pushed("add", hook_point=f"blocks.1.{place}"))
    path = {
        "hook_resid_pre": block(llama, 0), "hook_resid_mid": f"{block(llama)}.self_attn",
        "hook_attn_out": f"{block(llama)}.self_attn", "hook_mlp_out": f"{block(llama)}.mlp",
    }[place]  # fmt: skip
    assert_like(steered(llama, change), by_hand(llama, (path, along("add", own_vector()))))


@pytest.mark.parametrize("method", METHODS)
def test_neurons_are_pushed_by_their_values(gpt2: language_model.LanguageModel, method: str) -> None:
    source = source_of(gpt2, "neurons:blocks.1.mlp.hook_post")
    change = edits.of_push(gpt2, Push(method=method, strength=C, source="s", index=40), source)  # type: ignore[arg-type]

    def formula(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        at = x[..., 40]
        x[..., 40] = {"add": at + C, "cap": at.clamp(max=C), "ablate": at * 0}.get(method, at * 0 + C)
        return x

    expected = by_hand(gpt2, (f"{block(gpt2)}.mlp.c_proj", formula), is_input=True)
    assert_like(steered(gpt2, change), expected)


def test_vectors_of_a_set_are_clamped_to_a_value_with_its_bias(
    gpt2: language_model.LanguageModel, tmp_path: Path
) -> None:
    vectors = np.stack([own_vector().numpy(), own_vector().numpy()[::-1]]).astype(np.float32)
    bias = np.array([0.5, -1.0], np.float32)
    save_file(
        {"vectors": vectors, "bias": bias}, tmp_path / "v.safetensors", {"hook_point": "blocks.1.hook_resid_post"}
    )
    source = source_of(gpt2, str(tmp_path / "v.safetensors"))
    v = torch.from_numpy(vectors[1])

    def clamped(x: torch.Tensor) -> torch.Tensor:
        return x + (C - (x @ v + bias[1]))[..., None] * v / v.square().sum()

    formulas = {method: along(method, v / v.norm()) for method in METHODS} | {"clamp": clamped}
    for method, formula in formulas.items():
        change = edits.of_push(gpt2, Push(method=method, strength=C, source="s", index=1), source)  # type: ignore[arg-type]
        assert_like(steered(gpt2, change), by_hand(gpt2, (block(gpt2), formula)))


def test_transcoders_push_where_they_write_and_know_no_more(gpt2: language_model.LanguageModel, tmp_path: Path) -> None:
    source = sae_source(gpt2, tmp_path / "sae")
    where = names.HookPoint(1, "hook_mlp_out")
    description = dataclasses.replace(source.encoder.sae.description, kind="transcoder", hook_point_out=where)
    made = encoder.Encoder(dataclasses.replace(source.encoder.sae, description=description))  # type: ignore[type-var]
    source = edits.Source(made, source.capture, language_model.resolve(gpt2, where))
    path = f"{block(gpt2)}.mlp"
    u = source.encoder.sae.directions()[FEATURE]
    for method in METHODS[:3]:
        change = edits.of_push(gpt2, Push(method=method, strength=C, source="s", index=FEATURE), source)
        assert_like(steered(gpt2, change), by_hand(gpt2, (path, along(method, u))))
    for method in ("ablate", "clamp", "reconstruct"):
        with pytest.raises(errors.UnsupportedError, match=f"{method} is not for transcoders"):
            edits.of_push(gpt2, Push(method=method, source="s", index=FEATURE), source)


def test_centred_writing_weights_are_read_less_their_mean(gpt2: language_model.LanguageModel, tmp_path: Path) -> None:
    source = sae_source(gpt2, tmp_path / "sae", architecture="standard")
    capture = dataclasses.replace(source.capture, is_centred=True)
    centred = dataclasses.replace(source, capture=capture, written=capture)
    sae = source.encoder.sae
    u = sae.W_dec[FEATURE] / sae.W_dec[FEATURE].norm()

    def activation(x: torch.Tensor) -> torch.Tensor:
        return ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()

    formulas: dict[str, Formula] = {
        "cap": along("cap", u, -1.0),
        "ablate": lambda x: x - activation(x)[..., FEATURE, None] * sae.W_dec[FEATURE],
        "reconstruct": lambda x: activation(x) @ sae.W_dec + sae.b_dec,
    }
    for method, formula in formulas.items():
        push = Push(method=method, strength=-1.0, source="s", index=FEATURE)  # type: ignore[arg-type]

        def on_centred(x: torch.Tensor, formula: Formula = formula) -> torch.Tensor:
            mean = x.mean(dim=-1, keepdim=True)
            return formula(x - mean) + mean

        expected = by_hand(gpt2, (block(gpt2), on_centred))
        assert_like(steered(gpt2, edits.of_push(gpt2, push, centred)), expected)
        assert (expected - by_hand(gpt2, (block(gpt2), formula))).norm() > 1e-3 * expected.norm()


def test_an_overflow_stays_in_its_row(gpt2: language_model.LanguageModel, tmp_path: Path) -> None:
    source = sae_source(gpt2, tmp_path / "sae", architecture="standard")
    clamp = Push(method="clamp", strength=1.0, source="s", index=FEATURE)
    huge = [edits.of_push(gpt2, pushed("add", 3e38)), edits.of_push(gpt2, pushed("add", 3e38))]
    rows = [(*huge, edits.of_push(gpt2, clamp, source)), (edits.of_push(gpt2, clamp, source),)]
    running = CachedRows(gpt2)
    found = running.join(
        [Row(owner=0, prompt=tuple(PROMPT), sampling=Sampling(n_tokens=1), changes=changes) for changes in rows]
    )
    assert not found[0].isfinite().all()
    assert_like(found[1], steered(gpt2, *rows[1])[0])


def test_what_makes_no_sense_is_refused(gpt2: language_model.LanguageModel, tmp_path: Path) -> None:
    sae = sae_source(gpt2, tmp_path / "sae")
    dead = dataclasses.replace(
        sae.encoder.sae, decoder_norm=sae.encoder.sae.decoder_norm * 0, W_dec=torch.zeros(40, 16)
    )
    nowhere = dataclasses.replace(sae, encoder=encoder.Encoder(dead))
    post = "blocks.1.hook_resid_post"
    neurons = source_of(gpt2, "neurons:blocks.1.mlp.hook_post")
    v = tuple(own_vector().tolist())
    refused: list[tuple[type[errors.SiteError], str, Push, edits.Source | None]] = [
        (errors.InvalidInputError, "strength is nan", Push(strength=float("nan"), source="s"), sae),
        (errors.NotFoundError, "no feature 40", Push(source="s", index=40), sae),
        (errors.NotFoundError, "no feature -1", Push(source="s", index=-1), sae),
        (errors.InvalidInputError, "no direction", Push(hook_point=post, vector=(0.0,) * 16), None),
        (errors.InvalidInputError, "no direction", Push(source="s"), nowhere),
        (errors.InvalidInputError, "no direction", Push(hook_point=post, vector=(*v[1:], float("inf"))), None),
        (errors.InvalidInputError, "has 15 numbers", Push(hook_point=post, vector=v[1:]), None),
        (errors.InvalidInputError, "has 16 numbers", Push(hook_point="blocks.1.mlp.hook_post", vector=v), None),
        (errors.InvalidInputError, "not a hook point", Push(hook_point="somewhere", vector=v), None),
        (errors.UnsupportedError, "outside the model", Push(hook_point="blocks.9.hook_resid_post", vector=v), None),
        (errors.UnsupportedError, "cannot be replaced", Push(hook_point="blocks.1.ln1.hook_normalized", vector=v), None),
        (errors.UnsupportedError, "no reconstruction", pushed("reconstruct"), None),
        (errors.UnsupportedError, "no reconstruction", Push(method="reconstruct", source="s"), neurons),
    ]  # fmt: skip
    for kind, message, push, source in refused:
        with pytest.raises(kind, match=message):
            edits.of_push(gpt2, push, source)
