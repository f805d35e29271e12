"""What is evaluated: samples of the corpus, stretches beyond the trained context, and what is said of the rest."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend import names
from backend.formats import quality as formats
from tests import tiny
from workers.compute import corpus as corpora
from workers.compute import evaluation, language_model, quality, sae
from workers.compute.encoder import Encoder
from workers.compute.long_contexts import LongContexts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> quality.Subject:
    """An SAE trained on contexts of 8 in a model that takes 32."""
    folder = tmp_path_factory.mktemp("subject")
    model = language_model.load(str(tiny.save_model(folder / "model")), device=CPU, dtype=torch.float32)
    dictionary = sae.load(tiny.save_sae(folder / "sae", metadata={"context_size": 8}), device=CPU)
    return quality.Subject(model, language_model.resolve(model, dictionary.description.hook_point), Encoder(dictionary))


def build(subject: quality.Subject, samples: tuple[LongContexts, ...] = (), *, size: int = 8):
    def hear(document: np.ndarray) -> None:
        for each in samples:
            each.add(document)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return corpora.from_documents(
            tiny.text().split(tiny.SEPARATOR), subject.model.tokenizer, special_tokens=subject.model.special_tokens,
            n_vocabulary=subject.model.d_vocab, context_size=size, prepend_bos=True, on_document=hear,
        )  # fmt: skip


def longer_samples(subject: quality.Subject) -> tuple[LongContexts, ...]:
    return evaluation.longer_samples(8, 8, subject.model.n_context, n_tokens=640, begin=0, seed=0)


def test_four_times_the_trained_context_is_evaluated_too(subject: quality.Subject) -> None:
    samples = longer_samples(subject)
    corpus = build(subject, samples)
    longer = evaluation.longest_of(samples)
    heard: list[int] = []
    found = evaluation.evaluate(subject, corpus, longer, n_tokens=800, seed=0, on_batch=heard.append)
    assert (found.trained_context_size, found.corpus.context_size, found.longer.context_size) == (8, 8, 32)
    chosen = quality.sample(corpus.n_contexts, n_chosen=100, seed=0)
    assert found.corpus.n_contexts == 100
    assert found.corpus.n_tokens == corpus.mask(0, corpus.n_contexts)[chosen].sum()
    assert found.longer.n_contexts == 20
    assert found.notes == ()
    for name in formats.RECONSTRUCTION + formats.LOSS:
        assert len(found.longer.metrics[name].by_position) == 32
        assert found.longer.metrics[name].by_position[20] is not None
    assert sum(heard) == evaluation.n_units(corpus, longer, n_tokens=800)
    assert formats.from_json(formats.to_json(found)) == found


def test_the_same_seed_gives_the_same_numbers(subject: quality.Subject) -> None:
    corpus = build(subject)
    first, again, other = (evaluation.evaluate(subject, corpus, None, n_tokens=400, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.corpus.metrics["mse"].value != other.corpus.metrics["mse"].value


def test_lengths_are_those_the_model_takes_longest_first() -> None:
    def sizes(trained: int | None, context: int, longest: int) -> list[int]:
        found = evaluation.longer_samples(trained, context, longest, n_tokens=10**4, begin=None, seed=0)
        return [each.size for each in found]

    assert sizes(128, 128, 1024) == [512, 256]
    assert sizes(128, 128, 300) == [300, 256]
    assert sizes(128, 128, 200) == [200]
    assert sizes(128, 128, 128) == sizes(None, 128, 1024) == []
    assert sizes(128, 300, 1024) == [512]


def test_the_longest_length_with_enough_stretches_counts(subject: quality.Subject) -> None:
    samples = evaluation.longer_samples(8, 8, 32, n_tokens=10**4, begin=0, seed=0)
    for i in range(evaluation.MIN_LONGER_CONTEXTS):
        for each in samples:
            each.add(np.arange(1, 16 + 16 * (i > 0)) + 40 * i)
    assert evaluation.longest_of(samples).shape[1] == 16
    assert evaluation.longest_of(()) is None


@pytest.mark.parametrize(
    ("trained", "n_context", "note"),
    [(8, 32, "too few documents"), (32, 32, "takes 32 tokens at most"), (None, 32, "does not say how long")],
)
def test_what_is_missing_is_said(subject: quality.Subject, trained: int | None, n_context: int, note: str) -> None:
    description = replace(subject.encoder.sae.description, context_size=trained)
    changed = replace(subject, encoder=Encoder(replace(subject.encoder.sae, description=description)))
    found = evaluation.evaluate(changed, build(subject), None, n_tokens=80, seed=0)
    assert note in " ".join(found.notes)


def test_a_corpus_of_long_contexts_needs_no_longer_ones(subject: quality.Subject) -> None:
    found = evaluation.evaluate(subject, build(subject, size=32), None, n_tokens=320, seed=0)
    assert found.notes == ()
    assert found.corpus.context_size == 32


def test_places_that_cannot_be_replaced_are_said(subject: quality.Subject) -> None:
    capture = language_model.resolve(subject.model, names.HookPoint(1, "ln2.hook_in"))
    found = evaluation.evaluate(replace(subject, capture=capture), build(subject), None, n_tokens=80, seed=0)
    assert set(found.corpus.metrics) == set(formats.RECONSTRUCTION)
    assert "Cross-entropy with the SAE is not measured" in found.notes[0]


def test_less_than_a_context_is_one(subject: quality.Subject) -> None:
    assert evaluation.evaluate(subject, build(subject), None, n_tokens=1, seed=0).corpus.n_contexts == 1
