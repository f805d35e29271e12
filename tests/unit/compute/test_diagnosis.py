"""The quick look on real SAEs: silent where they belong, and naming the mistake where one is made."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backend import errors, names
from backend.formats import look as formats
from backend.formats.look import Fit
from tests import mistakes, tiny
from workers.compute import diagnosis, diagnosis_dense, language_model, quality, reconstruction, sae
from workers.compute import diagnosis_findings as findings
from workers.compute.encoder import Encoder

NAMES = [*mistakes.DEMO, *(mistakes.SHARED if tiny.SHARED.is_dir() else ())]


@pytest.fixture(scope="module", params=NAMES)
def right(request):
    return mistakes.good(request.param)


@pytest.fixture(scope="module")
def demo():
    return mistakes.good("1-res-2k")


def seen(subject, corpus, of):
    return diagnosis.look(subject, corpus, bos=of.bos)


def changed(subject, **weights):
    return dataclasses.replace(subject, sae=dataclasses.replace(subject.sae, **weights))


def test_a_good_sae_in_its_place_raises_no_alarm(right):
    look = seen(right.subject, right.corpus, right)
    assert look.fatal + look.warnings == ()
    assert not any(candidate.is_better for candidate in look.candidates)
    assert {"place", "b_dec", "normalisation", "bos"} <= {candidate.kind for candidate in look.candidates}


def test_every_mistake_is_named(right):
    """Of two of them; the others' are in `docs/checks.md`."""
    if right.name not in ("3-res-2k", "jumprelu512"):
        pytest.skip("named in tests/bench/results/quick_look.json")
    for mistake in mistakes.of(right):
        look = seen(mistake.subject, mistake.corpus, right)
        best = findings.best(look)
        assert best is not None, (mistake.name, look.fit, look.candidates)
        assert (best.kind, mistake.named in best.what) == (mistake.kind, True), (mistake.name, best)
        (said,) = [found.sentence for found in look.warnings if best.what in found.sentence]
        assert f"{best.fit.explained_variance:.1%}" in said


def test_the_figures_are_those_of_the_evaluation(demo):
    look = seen(demo.subject, demo.corpus, demo)
    subject = quality.Subject(demo.subject.model, demo.subject.capture, Encoder(demo.subject.sae))
    counts = demo.corpus.mask(0, demo.corpus.n_contexts)
    mean = quality.mean_activation(subject, demo.corpus.rows, counts, on_batch=lambda n: None)
    measured = quality.evaluation(quality.sums(subject, demo.corpus.rows, counts, mean)).metrics
    assert look.fit.explained_variance == pytest.approx(measured["explained_variance"].value, abs=0.02)
    assert look.fit.l0 == pytest.approx(measured["l0"].value, rel=0.05)


def test_a_small_sample_comes_of_a_large_sae(demo):
    description = dataclasses.replace(demo.subject.sae.description, d_in=8192, d_sae=131_072)
    shape = SimpleNamespace(W_enc=torch.empty(8192, 131_072, device="meta"), d_sae=131_072, description=description)
    assert diagnosis.n_tokens.__wrapped__(shape) == diagnosis.MIN_TOKENS
    assert diagnosis.n_tokens(demo.subject.sae) == diagnosis.MAX_TOKENS


def test_a_transposed_square_encoder_is_named(demo):
    subject = mistakes.square(demo)
    assert findings.best(seen(subject, demo.corpus, demo)) is None
    wrong = changed(subject, W_enc=subject.sae.W_enc.T)
    assert findings.best(seen(wrong, demo.corpus, demo)).what == "with W_enc transposed"


def test_a_transcoder_taken_for_an_sae_is_named(demo):
    subject = mistakes.transcoder(demo)
    best = findings.best(seen(subject, demo.corpus, demo))
    assert best.what == "as a transcoder from blocks.1.hook_resid_mid to blocks.1.hook_mlp_out"


def test_a_transcoder_is_looked_at_where_it_writes(demo):
    """In its layer it says nothing; declared a layer too late, it names the right one."""
    made = mistakes.transcoder(demo)
    model = made.model
    there = language_model.resolve(model, names.parse_hook_point("blocks.1.hook_mlp_out"))
    right = mistakes.described(dataclasses.replace(made, output=there), kind="transcoder")
    look = seen(right, demo.corpus, demo)
    assert look.warnings + look.fatal == ()
    assert look.fit.explained_variance > findings.WORTH_NAMING
    late = [language_model.resolve(model, names.HookPoint(2, place)) for place in ("hook_resid_mid", "hook_mlp_out")]
    wrong = dataclasses.replace(right, capture=late[0], output=late[1])
    best = findings.best(seen(wrong, demo.corpus, demo))
    assert best.what == "from blocks.1.hook_resid_mid to blocks.1.hook_mlp_out"


def test_an_untrained_sae_is_called_so(demo):
    said = [found.sentence for found in seen(mistakes.untrained(demo), demo.corpus, demo).warnings]
    assert any("untrained, or of another model" in sentence for sentence in said)


@pytest.mark.parametrize(("bias", "words"), [(-1e9, "no feature fires on any"), (1e9, "features fire on every one")])
def test_features_that_never_or_always_fire_are_fatal(demo, bias, words):
    subject = mistakes.described(demo.subject, architecture="standard", k=None)
    look = seen(changed(subject, b_enc=torch.full_like(subject.sae.b_enc, bias)), demo.corpus, demo)
    (said,) = look.fatal
    assert words in said.sentence
    assert said is look.findings[0]


def test_thresholds_at_zero_are_named(demo):
    subject = mistakes.described(demo.subject, architecture="jumprelu", k=None)
    assert any("logarithms" in found.advice for found in seen(subject, demo.corpus, demo).warnings)


def test_centred_writing_weights_are_tried_where_they_can_be(demo):
    subject = demo.subject
    # sees each vector's mean, which centring takes away
    b_dec = subject.sae.b_dec - subject.sae.b_dec.mean()
    shifted = changed(subject, W_enc=subject.sae.W_enc + 50.0, b_dec=b_dec)
    look = seen(shifted, demo.corpus, demo)
    assert findings.best(look).kind == "centring"
    llama = mistakes.good("jumprelu512") if tiny.SHARED.is_dir() else None
    if llama:
        assert "centring" not in {each.kind for each in seen(llama.subject, llama.corpus, llama).candidates}


def test_activations_that_are_not_finite_are_refused(demo, monkeypatch):
    def broken(model, captures, tokens):
        return [torch.full((*tokens.shape, 256), float("nan")) for _ in captures]

    monkeypatch.setattr(language_model, "residuals_at", broken)
    with pytest.raises(errors.InvalidInputError, match="not finite"):
        seen(demo.subject, demo.corpus, demo)


def test_a_corpus_of_masked_tokens_is_refused(demo):
    masked = dataclasses.replace(demo.corpus, rows=np.full_like(demo.corpus.rows, demo.bos))
    with pytest.raises(errors.InvalidInputError, match="masked"):
        seen(demo.subject, masked, demo)


def test_a_look_is_the_same_twice_and_after_json(demo):
    look = seen(demo.subject, demo.corpus, demo)
    assert seen(demo.subject, demo.corpus, demo) == look
    assert formats.from_json(formats.to_json(look)) == look


@pytest.mark.parametrize(
    ("base", "kind", "tried", "is_better"),
    [
        (Fit(0.8, 20), "scale", Fit(0.84, 20), False),  # too little gained
        (Fit(0.8, 20), "scale", Fit(0.86, 20), True),
        (Fit(0.8, 20), "scale", Fit(0.86, 45), False),  # bought with features
        (Fit(0.8, 20), "scale", Fit(0.92, 40), True),
        (Fit(0.8, 20), "b_dec", Fit(0.82, 20), True),
        (Fit(0.8, 20), "place", Fit(0.83, 20), True),
        (Fit(-2.0, 20), "scale", Fit(0.25, 20), False),  # fits no better than nothing
        (Fit(-2.0, 20), "scale", Fit(0.5, 200), True),
        (Fit(-2.0, 20), "scale", Fit(0.5, 400), False),  # dense
        (Fit(None, 0), "scale", Fit(0.5, 20), True),
        (Fit(0.8, 20), "scale", Fit(None, 20), False),
    ],
)
def test_when_a_fit_is_better(base, kind, tried, is_better):
    assert findings.is_better(base, kind, tried, d_sae=1000) is is_better


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "standard"},
        {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
        {"architecture": "gated", "apply_b_dec_to_input": False},
        {"architecture": "topk", "normalize_activations": "constant_norm_rescale"},
        {"architecture": "topk", "rescale_acts_by_decoder_norm": True},
        {"architecture": "abstopk", "k": 5, "rescale_acts_by_decoder_norm": True},
    ],
)
def test_the_plain_way_is_the_encoders_way(tmp_path, config):
    dictionary = sae.load(tiny.save_sae(tmp_path, **config), device=mistakes.CPU)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    encoder = Encoder(dictionary)
    exact, plain = reconstruction.reconstruct(encoder, x, dictionary.directions()), diagnosis_dense.run(dictionary, x)
    torch.testing.assert_close(plain.output, exact.output, rtol=1e-4, atol=1e-4)
    assert plain.l0 == float(exact.l0.double().mean())
    assert plain.n_fired == len(np.unique(encoder.encode(x).feature))
