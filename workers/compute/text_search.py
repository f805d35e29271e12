"""The features a text search finds: the best of the whole text, of each source, or of each token.

A feature found for several tokens is there once, with its activation on every token. What ranks and how ties go is
`text_activations.rank`'s.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from workers.compute.text_activations import Ranked, TextFirings, rank

BestOf = Literal["text", "source", "token"]


def best(
    found: Sequence[TextFirings], n_tokens: int, *, best_of: BestOf, sort_positions: Sequence[int], n_results: int
) -> Ranked:
    """The `n_results` best features of all sources together, of each source, or of each token.

    Of each source they stand one source after the other. Of each token (of `sort_positions`, where any are given) they
    are ranked by their greatest activation on the text.
    """
    match best_of:
        case "text":
            return rank(found, n_tokens, sort_positions=sort_positions, n_results=n_results)
        case "source":
            ranked = [rank([each], n_tokens, sort_positions=sort_positions, n_results=n_results) for each in found]
            return Ranked(
                np.repeat(np.arange(len(ranked)), [len(each.feature) for each in ranked]),
                np.concatenate([each.feature for each in ranked]),
                np.concatenate([each.values for each in ranked]),
            )
        case "token":
            wanted = _best_of_tokens(found, n_tokens, sort_positions or range(n_tokens), n_results)
            return rank(_only(found, wanted), n_tokens, sort_positions=(), n_results=sum(map(len, wanted)))


def _best_of_tokens(
    found: Sequence[TextFirings], n_tokens: int, positions: Sequence[int], n_results: int
) -> list[Int64[np.ndarray, " _"]]:
    """By source, the features among the `n_results` greatest above zero of some of the tokens."""
    source = np.repeat(np.arange(len(found)), [len(each.value) for each in found])
    feature = np.concatenate([each.feature for each in found])
    position = np.concatenate([each.position for each in found])
    value = np.concatenate([each.value for each in found])
    order = np.lexsort((feature, source, -value, position))
    order = order[(value[order] > 0) & np.isin(position[order], np.asarray(positions))]
    first = np.searchsorted(position[order], np.arange(n_tokens))
    order = order[np.arange(len(order)) - first[position[order]] < n_results]
    return [np.unique(feature[order[source[order] == number]]) for number in range(len(found))]


def _only(found: Sequence[TextFirings], wanted: Sequence[Int64[np.ndarray, " _"]]) -> list[TextFirings]:
    """What fires of the features wanted of each source."""
    kept = [np.isin(each.feature, features) for each, features in zip(found, wanted, strict=True)]
    return [
        TextFirings(each.position[mask], each.feature[mask], each.value[mask])
        for each, mask in zip(found, kept, strict=True)
    ]
