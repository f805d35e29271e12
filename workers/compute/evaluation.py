"""One source's evaluation: which contexts, and what comes of them.

1. Contexts of the corpus, evenly spaced, as many as the tokens asked for fill.
2. The same over stretches of single documents up to `LONGER` times what the SAE was trained on, where the model reads
   so far and the corpus has such documents: SAEs are known to get worse beyond the contexts they were trained on.
What is left out is said in `Quality.notes`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backend import errors
from backend.formats.quality import Evaluation, Quality
from workers.compute import corpus as corpora
from workers.compute import intervention, quality
from workers.compute.long_contexts import LongContexts

LONGER = (4, 2)
"""Times the trained context, tried in this order."""
MIN_LONGER_CONTEXTS = 16
"""Fewer stretches of a length say too little about it."""


def longer_samples(
    trained_size: int | None, context_size: int, longest: int, *, n_tokens: int, begin: int | None, seed: int
) -> tuple[LongContexts, ...]:
    """What collects stretches while a corpus is read, longest first: longer than its contexts, at most `longest`."""
    sizes = {min(times * (trained_size or 0), longest) for times in LONGER}
    wanted = sorted((size for size in sizes if size > max(context_size, trained_size or 0)), reverse=True)
    return tuple(LongContexts(size, n_kept=max(1, n_tokens // size), begin=begin, seed=seed) for size in wanted)


def longest_of(samples: tuple[LongContexts, ...]) -> NDArray[np.int64] | None:
    """The rows of the longest stretches there are enough of; None if there are of none."""
    enough = (rows for each in samples if len(rows := each.rows()) >= MIN_LONGER_CONTEXTS)
    return next(enough, None)


def evaluate(
    subject: quality.Subject,
    corpus: corpora.Corpus,
    longer: NDArray[np.integer] | None,
    *,
    n_tokens: int,
    seed: int,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Quality:
    """Evaluate on about `n_tokens` tokens of the corpus, and on the rows of `longer` where there are any.

    Raises:
        InvalidInputError: The model's activations or losses are not finite.
    """
    n_chosen = max(1, n_tokens // corpus.rows.shape[1])
    chosen = quality.sample(corpus.n_contexts, n_chosen=n_chosen, seed=seed)
    sampled = corpora.Corpus(corpus.rows[chosen], corpus.special_tokens, is_first_masked=corpus.is_first_masked)
    stretches = None
    if longer is not None:
        stretches = corpora.Corpus(longer, corpus.special_tokens, is_first_masked=corpus.is_first_masked)
    return Quality(
        subject.encoder.sae.description.context_size,
        seed,
        _over(subject, sampled, on_batch),
        None if stretches is None else _over(subject, stretches, on_batch),
        _notes(subject, corpus, longer),
    )


def n_units(corpus: corpora.Corpus, longer: NDArray[np.integer] | None, *, n_tokens: int) -> int:
    """Tokens that `evaluate` reports through `on_batch` in all: two passes over each sample."""
    size = int(corpus.rows.shape[1])
    return 2 * (min(corpus.n_contexts, max(1, n_tokens // size)) * size + (0 if longer is None else longer.size))


def _over(subject: quality.Subject, sampled: corpora.Corpus, on_batch: Callable[[int], None]) -> Evaluation:
    counts = sampled.mask(0, sampled.n_contexts)
    mean = quality.mean_activation(subject, sampled.rows, counts, on_batch=on_batch)
    return quality.evaluation(quality.sums(subject, sampled.rows, counts, mean, on_batch=on_batch))


def _notes(subject: quality.Subject, corpus: corpora.Corpus, longer: NDArray[np.integer] | None) -> tuple[str, ...]:
    notes = []
    try:
        intervention.check(subject.target)
    except errors.UnsupportedError as error:
        notes.append(f"Cross-entropy with the SAE is not measured: {error}")
    trained = subject.encoder.sae.description.context_size
    if trained is None:
        notes.append("The SAE's configuration does not say how long the contexts it was trained on were.")
    elif longer is None and corpus.rows.shape[1] <= trained:
        if subject.model.n_context <= trained:
            notes.append(f"Longer contexts are not measured: the model takes {subject.model.n_context} tokens at most.")
        else:
            notes.append("Longer contexts are not measured: the corpus has too few documents that are long enough.")
    return tuple(notes)
