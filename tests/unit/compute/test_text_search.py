"""What a text search finds, against a slow and obvious twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.compute.text_activations import TextFirings
from workers.compute.text_search import best

N_TOKENS, N_FEATURES = 6, 8


@st.composite
def texts(draw: st.DrawFn) -> list[np.ndarray]:
    """Activations of up to three sources, (token, feature); many ties, some below zero."""
    n_sources = draw(st.integers(1, 3))
    cells = st.sampled_from([0.0, 0.0, 0.0, -1.0, 0.5, 1.0, 2.0])
    size = N_TOKENS * N_FEATURES
    rows = [draw(st.lists(cells, min_size=size, max_size=size)) for _ in range(n_sources)]
    return [np.array(row, np.float32).reshape(N_TOKENS, N_FEATURES) for row in rows]


def firings(dense: np.ndarray) -> TextFirings:
    position, feature = np.nonzero(dense)
    return TextFirings(position, feature, dense[position, feature])


def found(dense: list[np.ndarray], **asked) -> list[tuple[int, int]]:
    ranked = best([firings(each) for each in dense], N_TOKENS, **asked)
    for source, feature, values in zip(ranked.source, ranked.feature, ranked.values, strict=True):
        assert np.array_equal(values, dense[source][:, feature]), "its activation on every token"
    return list(zip(ranked.source.tolist(), ranked.feature.tolist(), strict=True))


def greatest(dense: list[np.ndarray], score, n: int) -> list[tuple[int, int]]:
    """The features of greatest score above zero, ties to the earlier source and the lower index."""
    scored = [(-score(each[:, f]), s, f) for s, each in enumerate(dense) for f in range(N_FEATURES)]
    return [(s, f) for minus, s, f in sorted(scored) if minus < 0][:n]


@settings(deadline=None)
@given(texts(), st.sampled_from([(), (2,), (0, 3)]), st.integers(1, 9))
def test_of_each_source_the_best_stand_one_source_after_the_other(dense, positions, n) -> None:
    def score(column: np.ndarray) -> float:
        return float(column[list(positions)].sum() if positions else column.max())

    expected = [(s, f) for s, each in enumerate(dense) for _, f in greatest([each], score, n)]
    assert found(dense, best_of="source", sort_positions=positions, n_results=n) == expected


@settings(deadline=None)
@given(texts(), st.sampled_from([(), (2,), (0, 3)]), st.integers(1, 9))
def test_of_each_token_the_best_are_there_once_by_their_greatest_activation(dense, positions, n) -> None:
    wanted = {
        each for p in (positions or range(N_TOKENS)) for each in greatest(dense, lambda column, p=p: column[p], n)
    }
    ranked = greatest(dense, lambda column: float(column.max()), len(dense) * N_FEATURES)
    expected = [each for each in ranked if each in wanted]
    assert found(dense, best_of="token", sort_positions=positions, n_results=n) == expected


@pytest.mark.parametrize("best_of", ["text", "source", "token"])
def test_where_nothing_fires_nothing_is_found(best_of) -> None:
    nothing = [np.zeros((N_TOKENS, N_FEATURES), np.float32)] * 2
    assert found(nothing, best_of=best_of, sort_positions=(), n_results=5) == []
