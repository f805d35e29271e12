"""Dashboards against plain loops over sae-lens's dense activations, and against themselves under other shardings."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import names
from backend.formats import dashboards as packed
from tests import reference, tiny
from tests.unit.compute.test_encoder import exact_sae_lens_activations
from workers.compute import activation_index, dashboards, language_model, sae
from workers.compute import corpus as corpora
from workers.compute.encoder import Encoder

CPU = torch.device("cpu")


def make(
    model_folder: Path,
    sae_folder: Path,
    text_corpus: str,
    *,
    n_shards: int,
    context_size: int,
    max_tokens: int | None = None,
) -> tuple[list[packed.Dashboard], corpora.Corpus, torch.Tensor]:
    """Everything, as the tasks do it; also the residuals the encoder saw."""
    model = language_model.load(str(model_folder), device=CPU, dtype=torch.float32)
    dictionary = sae.load(sae_folder, device=CPU)
    description = dictionary.description
    capture = language_model.resolve(model, description.hook_point, is_centred=description.is_centred)
    corpus = corpora.from_documents(
        text_corpus.split(tiny.SEPARATOR), model.tokenizer, special_tokens=model.special_tokens, n_vocabulary=model.d_vocab,
        context_size=context_size, prepend_bos=True, max_tokens=max_tokens,
    )  # fmt: skip
    encoder = Encoder(dictionary)
    parts = [
        postings
        for first, n in activation_index.shards(corpus.n_contexts, n_shards=n_shards)
        for _, postings in activation_index.index_shard(
            model, [(capture, encoder)], corpus, first_context=first, n_contexts=n, n_threads=n_shards % 3 + 1,
            max_firings=lambda: 100_000 // n_shards,
        )
    ]  # fmt: skip
    inputs = dashboards.FinishInputs(
        dictionary.directions(), dictionary.decoder_norm, language_model.unembedding(model), seed=0
    )
    found = [d for block in dashboards.finish(inputs, parts, corpus) for d in block]
    residuals = []
    for start, stop in activation_index.batches(0, corpus.n_contexts):
        rows = np.zeros((activation_index.BATCH_CONTEXTS, context_size), np.int64)
        rows[: stop - start] = corpus.rows[start:stop]
        residuals.append(language_model.residuals(model, capture, torch.from_numpy(rows))[: stop - start])
    return found, corpus, torch.cat(residuals)


def check_against_oracle(
    found: list[packed.Dashboard],
    corpus: corpora.Corpus,
    residuals: torch.Tensor,
    sae_folder: Path,
    features: list[int],
) -> int:
    """Contexts, values and densities of `features` equal a brute-force computation with sae-lens. Returns firings seen."""
    flat = residuals.flatten(0, 1)
    chunks = [exact_sae_lens_activations(sae_folder, part) for part in flat.split(4096)]
    dense = torch.cat(chunks).numpy().reshape(*residuals.shape[:2], -1)
    counts = corpus.mask(0, corpus.n_contexts)
    n_seen = 0
    for f in features:
        expected = reference.feature(dense[:, :, f], counts)
        d = found[f]
        e = d.examples
        n_seen += d.n_firings
        assert (d.index, d.n_firings, d.max) == (f, expected.n_firings, expected.max)
        n_top = int((e.group == packed.TOP_GROUP).sum())
        shown = [(int(e.context[i]), float(e.value[e.offset[i] : e.offset[i + 1]].max())) for i in range(len(e.group))]
        assert shown[:n_top] == expected.top
        assert d.interval_firings.tolist() == expected.interval_firings
        for interval in range(5):
            members = [shown[i][0] for i in range(len(e.group)) if e.group[i] == interval + 1]
            assert len(set(members)) == len(members) == min(5, len(expected.interval_candidates[interval]))
            assert set(members) <= expected.interval_candidates[interval]
        for i in range(len(e.group)):  # every value of every shown context
            row = np.where(counts[e.context[i]], dense[e.context[i], :, f], 0)
            at = slice(e.offset[i], e.offset[i + 1])
            assert e.position[at].tolist() == np.flatnonzero(row).tolist()
            assert np.array_equal(e.value[at], row[e.position[at]])
        if d.n_firings:
            np.testing.assert_allclose(d.moments.mean, expected.mean, rtol=1e-12)
            np.testing.assert_allclose(d.moments.std, expected.std, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(d.moments.kurtosis, expected.kurtosis, rtol=1e-9)
            np.testing.assert_allclose(d.moments.skewness, expected.skewness, rtol=1e-7, atol=1e-9)
            assert d.linear_histogram.sum() == d.log_histogram.sum() == d.n_firings
    return n_seen


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "gated", "standard"])
def test_every_feature_equals_brute_force_with_sae_lens(tmp_path: Path, architecture: str) -> None:
    """Decoder norms from 0.2 to 5; the model's writing weights centred."""
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    folder = tiny.save_sae(tmp_path / "sae", architecture=architecture, metadata=metadata)
    model = tiny.save_model(tmp_path / "m")
    found, corpus, residuals = make(model, folder, tiny.text(120), n_shards=3, context_size=tiny.N_CONTEXT)
    assert corpus.n_contexts > 100
    assert check_against_oracle(found, corpus, residuals, folder, list(range(len(found)))) > 1000
    assert any(d.n_firings == 0 for d in found)


@pytest.mark.parametrize("name", ["jumprelu512", "batchtopk512", "standard512"])
def test_fifty_features_of_a_published_model_equal_brute_force(name: str) -> None:
    if not tiny.SHARED.is_dir():
        pytest.skip(f"the shared data is not at {tiny.SHARED}")
    folder = tiny.SHARED / "saes" / "tinystories-260k" / name
    text = (tiny.SHARED / "corpora" / "tinystories-head.txt").read_text()[:150_000]
    model = tiny.SHARED / "models" / "tinystories-260k"
    found, corpus, residuals = make(model, folder, text, n_shards=2, context_size=128, max_tokens=20_000)
    features = np.random.default_rng(0).choice(len(found), 50, replace=False).tolist()
    assert check_against_oracle(found, corpus, residuals, folder, features) > 1000


def test_one_two_and_seven_shards_give_the_same_bytes(tmp_path: Path) -> None:
    model, folder = tiny.save_model(tmp_path / "m"), tiny.save_sae(tmp_path / "sae")
    runs = [make(model, folder, tiny.text(150), n_shards=n, context_size=tiny.N_CONTEXT)[0] for n in (1, 2, 7)]
    first, *others = ([packed.pack(d) for d in run] for run in runs)
    assert all(other == first for other in others)


def test_packing_gives_back_every_number(tmp_path: Path) -> None:
    found, _, _ = make(
        tiny.save_model(tmp_path / "m"),
        tiny.save_sae(tmp_path / "sae"),
        tiny.text(40),
        n_shards=1,
        context_size=tiny.N_CONTEXT,
    )
    for d in found:
        again = packed.unpack(packed.pack(d))
        assert packed.pack(again) == packed.pack(d)
        assert np.array_equal(again.examples.value, d.examples.value)
        assert np.array_equal(again.examples.position, d.examples.position)
        assert again.examples.context.tolist() == d.examples.context.tolist()
        assert again.logit_lens is not None
        assert again.logit_lens.top_tokens.tolist() == d.logit_lens.top_tokens.tolist()
        np.testing.assert_equal(astuple(again.moments), astuple(d.moments))


def test_ranges_and_blocks_cut_anywhere_give_the_same_bytes() -> None:
    """Features that never fire, fire once, always, and in ties; blocks of a few firings and ranges off the tiles."""
    d_sae, n_contexts, size = 600, 90, 6
    rng = np.random.default_rng(0)
    always = np.stack(np.divmod(np.arange(n_contexts * size), size), axis=1)
    places = [always[np.sort(rng.choice(len(always), n, replace=False))] for n in rng.integers(0, 40, d_sae)]
    places[3], places[255], places[256], places[599] = always, always[:1], always, always[:0]
    values = [rng.choice([1e-40, 0.5, 1.0, 2.0, 3e38], len(at)).astype(np.float32) for at in places]
    context, position = (np.concatenate(places)[:, i].astype(kind) for i, kind in ((0, np.uint32), (1, np.uint16)))
    offset = np.cumsum([0, *map(len, places)], dtype=np.int64)
    parts = [activation_index.Postings(offset, context, position, np.concatenate(values))]
    corpus = corpora.Corpus(rng.integers(0, 50, (n_contexts, size)).astype(np.uint16), (), is_first_masked=False)
    inputs = made_inputs(d_sae, d_vocab=50)
    whole = [packed.pack(d) for block in dashboards.finish(inputs, parts, corpus) for d in block]
    assert [packed.unpack(blob).n_firings for blob in whole] == np.diff(offset).tolist()
    for ranges, max_firings in (
        ([(0, d_sae)], 1),
        ([(0, d_sae)], 100),
        ([(0, 1), (1, 255), (255, 257), (257, 600)], 1000),
        ([(0, 256), (256, 512), (512, 512), (512, 600)], 2**22),
    ):
        blocks = [
            block
            for first, stop in ranges
            for block in dashboards.finish(inputs, parts, corpus, first=first, stop=stop, max_firings=max_firings)
        ]
        assert [packed.pack(d) for block in blocks for d in block] == whole
        assert all(len(block) == 1 or sum(d.n_firings for d in block) <= max_firings for block in blocks)


def made_inputs(d_sae: int, *, d_vocab: int) -> dashboards.FinishInputs:
    """Random directions and unembedding."""
    generator = torch.Generator().manual_seed(2)
    directions = torch.nn.functional.normalize(torch.randn(d_sae, 24, generator=generator))
    W_U = torch.randn(24, d_vocab, generator=generator)
    return dashboards.FinishInputs(directions, torch.rand(d_sae, generator=generator), W_U, seed=1)


def test_a_hook_point_parses_only_inside_a_block() -> None:
    assert names.parse_hook_point("blocks.3.attn.hook_z") == names.HookPoint(3, "attn.hook_z")
