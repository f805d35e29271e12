"""Dashboards of signed and dense sources, as the tasks make them, against plain loops over an oracle's values."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backend import errors
from backend.formats import dashboards as packed
from tests import reference, tiny
from tests.unit.compute.test_encoder import exact_sae_lens_activations
from workers import runtime
from workers.compute import activation_index, extremes
from workers.compute import corpus as corpora

N_VECTORS = 9


def save_vectors(path: Path, *, d_in: int = 16) -> Path:
    """Labelled vectors with a bias that keeps one on either side of zero everywhere, and one that is zero."""
    generator = torch.Generator().manual_seed(4)
    vectors, bias = torch.randn(N_VECTORS, d_in, generator=generator), torch.zeros(N_VECTORS)
    bias[0], bias[1] = 1e4, -1e4
    vectors[2] = 0
    labels = json.dumps([f"direction {i}" for i in range(N_VECTORS)])
    hook = "blocks.1.hook_resid_post"
    save_file({"vectors": vectors, "bias": bias}, path, metadata={"labels": labels, "hook_point": hook})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tiny.save_model(folder / "m")
    tiny.save_sae(folder / "abstopk", architecture="abstopk")
    save_vectors(folder / "probes.safetensors")
    (folder / "text.txt").write_text(tiny.text(120))
    return folder


SOURCES = ("abstopk", "probes.safetensors", "neurons:blocks.1.mlp.hook_post", "neurons:blocks.2.attn.hook_z")


def load(folder: Path, name: str) -> tuple[runtime.Loaded, corpora.Corpus]:
    spec = runtime.Spec(corpus=str(folder / "text.txt"), threads=2, context_size=tiny.N_CONTEXT, quality_tokens=0)
    weights = Path(name) if name.startswith("neurons:") else folder / name
    loaded = runtime.load(str(folder / "m"), [weights], spec)
    return loaded, runtime.build_corpus(loaded, spec)[0]


def dashboards_of(loaded: runtime.Loaded, rows: corpora.Corpus, n_shards: int, **cut: int) -> list[packed.Dashboard]:
    size = activation_index.BATCH_CONTEXTS
    parts = [
        part
        for first, n in activation_index.shards(rows.n_contexts, n_shards=n_shards)
        for _, part in runtime.encode(
            loaded, rows, first_context=first, n_contexts=n, batch_contexts=size, on_batch=lambda _: None
        )
    ]
    blocks = runtime.finish(loaded, loaded.sources[0], parts, rows, seed=0, batch_contexts=size, **cut)
    return [d for block in blocks for d in block]


def oracle_values(folder: Path, name: str, loaded: runtime.Loaded, rows: corpora.Corpus) -> np.ndarray:
    """(n_contexts, context_size, d_sae): of sae-lens, of the hook point itself, or in fractions."""
    found = []
    source = loaded.sources[0]
    for start, stop in activation_index.batches(0, rows.n_contexts):
        x = activation_index.batch_residuals(loaded.model, [source.capture], rows, start, stop, 32)[0][: stop - start]
        if name == "abstopk":
            values = exact_sae_lens_activations(folder / name, x.flatten(0, 1)).reshape(*x.shape[:2], -1).numpy()
        elif name.startswith("neurons:"):
            values = x.numpy()
        else:
            exact = x.double() @ source.sae.written.double().T + source.sae.bias.double()
            values = exact.float().numpy()  # tests below hold it to fractions
        found.append(values)
    return np.concatenate(found)


@pytest.mark.parametrize("name", SOURCES)
def test_every_feature_equals_brute_force(made: Path, name: str) -> None:
    loaded, rows = load(made, name)
    found = dashboards_of(loaded, rows, n_shards=3)
    values, counts = oracle_values(made, name, loaded, rows), rows.mask(0, rows.n_contexts)
    is_dense = name != "abstopk"
    assert len(found) == values.shape[2]
    for f, d in enumerate(found):
        expected = reference.signed_feature(values[:, :, f], counts, is_dense=is_dense)
        s, e = d.signed, d.examples
        assert s is not None
        assert (d.index, s.is_dense) == (f, is_dense)
        assert (s.n_positive, s.n_negative) == (expected.n_positive, expected.n_negative)
        assert d.n_firings == s.n_positive + s.n_negative
        flat = values[:, :, f][counts]
        shown_values = flat if is_dense else flat[flat != 0]
        if len(shown_values):
            assert (d.max, d.min) == (shown_values.max(), shown_values.min())
        largest = np.abs(flat).max()
        mean, std, *shape = expected.moments
        np.testing.assert_allclose([d.moments.mean, d.moments.std], [mean, std], rtol=1e-6, atol=1e-9 * largest)
        np.testing.assert_allclose([d.moments.skewness, d.moments.kurtosis], shape, rtol=1e-4, atol=1e-6)
        assert {s.first_bin + k: n for k, n in enumerate(d.linear_histogram.tolist()) if n} == (
            reference.signed_histogram(shown_values.tolist(), s.bin_exponent)
        )
        sides = ((expected.positive, 1, 0, 1), (expected.negative, -1, packed.BOTTOM_GROUP, 6))
        for side, sign, top_group, first_group in sides:
            intervals = d.interval_firings if sign == 1 else s.negative_intervals
            assert intervals.tolist() == side.interval_firings
            of = [slice(int(a), int(b)) for a, b in zip(e.offset, e.offset[1:], strict=False)]
            shown = [
                (int(e.context[i]), float((e.value[at] * sign).max()))
                for i, at in enumerate(of)
                if e.group[i] == top_group
            ]
            assert shown == side.top
            for interval, candidates in enumerate(side.interval_candidates):
                members = e.context[e.group == first_group + interval].tolist()
                assert len(set(members)) == len(members) == min(5, len(candidates))
                assert set(members) <= candidates
        for i in range(len(e.group)):  # every value of every shown context, of either sign
            row = np.where(counts[e.context[i]], values[e.context[i], :, f], 0)
            at = slice(int(e.offset[i]), int(e.offset[i + 1]))
            assert e.position[at].tolist() == np.flatnonzero(row).tolist()
            assert np.array_equal(e.value[at], row[e.position[at]])
        assert (np.diff(e.group.astype(int)) >= 0).all()
    assert sum(d.signed.n_negative for d in found if d.signed) > 1000


@pytest.mark.parametrize("name", SOURCES)
def test_any_cut_gives_the_same_bytes(made: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, rows = load(made, name)
    first, seven = ([packed.pack(d) for d in dashboards_of(loaded, rows, n_shards=n)] for n in (1, 7))
    assert first == seven
    third = dashboards_of(loaded, rows, n_shards=2, first=3, stop=7)
    assert [packed.pack(d) for d in third] == first[3:7]
    monkeypatch.setattr("workers.compute.dashboards.TILE", 4)
    monkeypatch.setattr("workers.compute.dense_dashboards.VALUE_BYTES", 1 << 40)
    with monkeypatch.context() as patch:  # so little memory that a tile is finished at a time
        patch.setattr(runtime.memory.Budget, "firings", lambda self, n: 1 if n == 1 << 40 else 1 << 20)
        small = dashboards_of(loaded, rows, n_shards=1)
    assert [d.examples.value.tobytes() for d in small] == [packed.unpack(d).examples.value.tobytes() for d in first]


@pytest.mark.parametrize("name", SOURCES)
def test_packed_rows_give_back_every_number(made: Path, name: str) -> None:
    loaded, rows = load(made, name)
    for d in dashboards_of(loaded, rows, n_shards=1):
        data = packed.pack(d)
        again = packed.unpack(data)
        assert data[0] == packed.SIGNED_VERSION
        assert packed.pack(again) == data
        assert again.signed is not None
        assert again.signed.bottom_tokens.tolist() == d.signed.bottom_tokens.tolist()
        assert again.linear_histogram.tolist() == d.linear_histogram.tolist()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("place", ["mlp.hook_post", "attn.hook_z", "hook_mlp_out", "hook_attn_out"])
def test_neurons_are_transformer_lens_s_own(tmp_path: Path, kind: str, place: str) -> None:
    folder = tiny.save_model(tmp_path / "m", kind=kind)
    hook = f"blocks.1.{place}"
    loaded = runtime.load(str(folder), [Path(f"neurons:{hook}")], runtime.Spec(corpus="", threads=1))
    source = loaded.sources[0]
    tokens = torch.randint(1, 200, (4, tiny.N_CONTEXT), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
        _, cache = bridge.run_with_cache(tokens, names_filter=[hook])
    x = runtime.language_model.residuals(loaded.model, source.capture, tokens).flatten(0, 1)
    expected = cache[hook].reshape(len(x), -1).numpy()
    np.testing.assert_allclose(source.encoder.values(x), expected, rtol=1e-4, atol=2e-5)
    block = bridge.blocks[1]
    written = {
        "mlp.hook_post": lambda: block.mlp.W_out,
        "attn.hook_z": lambda: block.attn.W_O.reshape(-1, 16),
    }.get(place, lambda: torch.eye(16))()
    norms = written.norm(dim=-1)
    torch.testing.assert_close(source.sae.decoder_norm, norms)
    torch.testing.assert_close(source.sae.directions(), written / norms[:, None])


def test_vectors_are_inner_products_rounded_once(made: Path) -> None:
    loaded, rows = load(made, "probes.safetensors")
    source = loaded.sources[0]
    x = activation_index.batch_residuals(loaded.model, [source.capture], rows, 0, 2, 32)[0][0]
    found = source.encoder.values(x, 1, 6)
    for row in range(len(x)):
        for f in range(1, 6):
            weights, bias = source.sae.written[f].numpy(), source.sae.bias.numpy()[f]
            assert found[row, f - 1] == reference.pre_activation(x[row].numpy(), weights, bias)


def test_values_beyond_fp32_are_refused(made: Path) -> None:
    loaded, _ = load(made, "probes.safetensors")
    source = loaded.sources[0]
    with pytest.raises(errors.InvalidInputError, match="beyond what fp32 holds"):
        source.encoder.values(torch.full((1, 16), 3e38))


def test_vectors_that_are_not_finite_are_refused(made: Path, tmp_path: Path) -> None:
    path = save_vectors(tmp_path / "broken.safetensors")
    broken = torch.full((N_VECTORS, 16), torch.nan)
    hook = {"hook_point": "blocks.1.hook_resid_post"}
    save_file({"vectors": broken}, path, metadata=hook)
    with pytest.raises(errors.InvalidInputError, match="NaN"):
        runtime.load(str(made / "m"), [path], runtime.Spec(corpus="", threads=1))


def test_npz_and_safetensors_are_the_same_vectors(made: Path, tmp_path: Path) -> None:
    loaded, _ = load(made, "probes.safetensors")
    dictionary = loaded.sources[0].sae
    path = tmp_path / "probes.npz"
    arrays = {"vectors": dictionary.written.numpy(), "bias": dictionary.bias.numpy()}
    np.savez(path, labels=np.array(dictionary.description.labels), hook_point="blocks.1.hook_resid_post", **arrays)
    other = runtime.load(str(made / "m"), [path], runtime.Spec(corpus="", threads=1)).sources[0].sae
    assert torch.equal(other.written, dictionary.written)
    assert torch.equal(other.bias, dictionary.bias)
    assert other.description.labels == dictionary.description.labels


def test_only_extremes_are_kept_of_a_dense_source(made: Path, tmp_path: Path) -> None:
    loaded, rows = load(made, "neurons:blocks.1.mlp.hook_post")
    (part,) = [
        part
        for _, part in runtime.encode(
            loaded, rows, first_context=0, n_contexts=rows.n_contexts, batch_contexts=32, on_batch=lambda _: None
        )
    ]
    assert isinstance(part, extremes.Extremes)
    part.write(tmp_path / "part", {})
    n_values = rows.rows.size * loaded.sources[0].sae.d_sae
    assert (tmp_path / "part").stat().st_size < n_values * 4 / 4


def test_a_dense_source_has_no_quality(made: Path) -> None:
    loaded, rows = load(made, "neurons:blocks.1.mlp.hook_post")
    with pytest.raises(errors.UnsupportedError, match="reconstruct nothing"):
        runtime.evaluate(loaded, loaded.sources[0], rows, None, runtime.Spec(corpus=""))
