"""A difference between the two rankings is explained only where the numbers show it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import equality
from tests.bench.equality import Difference, Place, Reason, Token

BOUND = 1e-6


def exactly(values):
    """Tokens whose residuals are the same on both sides, from {(context, position): value}."""
    return lambda context, position: Token(values[context, position], values[context, position], BOUND, cut=1.0)


def one_firing(*places):
    """Ours, each context with one firing."""
    return [[place] for place in places]


def reasons(differences):
    return [difference.reason for difference in differences]


def filler(n, *, first=100):
    """Contexts that both sides list first, one firing each, well apart."""
    return [Place(first + i, 5, 50.0 - i) for i in range(n)]


def values_of(*lists):
    return {(place.context, place.position): place.value for places in lists for place in places}


def test_equal_lists_have_no_difference() -> None:
    places = filler(20)
    assert equality.compare(3, places, one_firing(*places), exactly(values_of(places))) == []


def test_a_second_token_of_a_context_takes_a_place_of_the_peer() -> None:
    shared = filler(19)
    again = Place(100, 6, 31.5)  # of the first context, before the last place
    last = Place(7, 7, 20.0)
    ours = [[shared[0], again], *one_firing(*shared[1:]), [last]]
    peer = sorted([*shared, again], key=lambda place: -place.value)
    found = equality.compare(3, peer, ours, exactly(values_of(shared, [again, last])))
    assert found == [Difference(3, 100, 6, Reason.REPEATED), Difference(3, 7, 7, Reason.REPEATED)]


def test_a_context_left_out_though_it_is_larger_than_the_last_place_is_unexplained() -> None:
    shared = filler(19)
    again, lost = Place(100, 6, 31.5), Place(7, 7, 31.9)
    ours = [[shared[0], again], *one_firing(*shared[1:]), [lost]]
    peer = sorted([*shared, again], key=lambda place: -place.value)
    found = equality.compare(3, peer, ours, exactly(values_of(shared, [again, lost])))
    assert Difference(3, 7, 7, Reason.UNEXPLAINED) in found


def test_silent_places_are_named_as_such() -> None:
    places = filler(2)
    silent = [Place(i, 0, 0.0) for i in range(18)]
    found = equality.compare(3, [*places, *silent], one_firing(*places), exactly(values_of(places)))
    assert reasons(found) == [Reason.SILENT] * 18


def test_equal_activations_may_swap() -> None:
    a, b = Place(1, 2, 4.0), Place(2, 2, 4.0)
    assert reasons(equality.compare(0, [a, b], one_firing(b, a), exactly(values_of([a, b])))) == [Reason.TIE]


def test_a_tie_at_the_last_place_may_be_decided_either_way() -> None:
    shared, mine, theirs = filler(19), Place(1, 2, 4.0), Place(2, 2, 4.0)
    known = exactly(values_of(shared, [mine, theirs]))
    found = equality.compare(0, [*shared, theirs], one_firing(*shared, mine), known)
    assert found == [Difference(0, 1, 2, Reason.TIE), Difference(0, 2, 2, Reason.TIE)]


def test_sums_in_another_order_may_swap_what_is_closer_than_their_bound() -> None:
    a, b = Place(1, 2, 4.0), Place(2, 2, 4.0 + BOUND)
    assert reasons(equality.compare(0, [a, b], one_firing(b, a), exactly(values_of([a, b])))) == [Reason.SUMMATION]


def test_another_forward_pass_may_swap_what_its_residuals_swap_and_no_more() -> None:
    a, b = Place(1, 2, 4.0), Place(2, 2, 3.9999)
    moved = {(1, 2): Token(3.9998, 4.0, BOUND, 1.0), (2, 2): Token(3.9999, 3.9999, BOUND, 1.0)}
    ours = one_firing(Place(2, 2, 3.9999), Place(1, 2, 3.9998))
    assert reasons(equality.compare(0, [a, b], ours, lambda c, p: moved[c, p])) == [Reason.FORWARD]
    still = {key: Token(token.theirs, token.theirs, BOUND, 1.0) for key, token in moved.items()}
    assert Reason.UNEXPLAINED in reasons(equality.compare(0, [a, b], ours, lambda c, p: still[c, p]))


def test_a_firing_of_one_side_alone_must_lie_at_the_threshold() -> None:
    a, b = Place(1, 2, 4.0), Place(2, 2, 1.0 + BOUND / 2)
    known = exactly(values_of([a, b]))
    assert reasons(equality.compare(0, [a, b], one_firing(a), known)) == [Reason.THRESHOLD]
    assert reasons(equality.compare(0, [a], one_firing(a, b), known)) == [Reason.THRESHOLD]
    clear = Place(2, 2, 1.1)
    known = exactly(values_of([a, clear]))
    assert reasons(equality.compare(0, [a, clear], one_firing(a), known)) == [Reason.UNEXPLAINED]
    assert reasons(equality.compare(0, [a], one_firing(a, clear), known)) == [Reason.UNEXPLAINED]


def test_a_second_firing_that_we_lack_is_found() -> None:
    a, again = Place(1, 2, 4.0), Place(1, 3, 3.0)
    found = equality.compare(0, [a, again], one_firing(a), exactly(values_of([a, again])))
    assert reasons(found) == [Reason.REPEATED, Reason.UNEXPLAINED]


def test_another_value_or_place_of_the_maximum_is_unexplained() -> None:
    a = Place(1, 2, 4.0)
    known = exactly({(1, 2): 4.0, (1, 3): 3.0})
    assert reasons(equality.compare(0, [a], one_firing(Place(1, 2, 4.01)), known)) == [Reason.UNEXPLAINED]
    ours = [[Place(1, 2, 2.9), Place(1, 3, 3.0)]]
    assert Reason.UNEXPLAINED in reasons(equality.compare(0, [a], ours, known))


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_whatever_fires_the_two_rankings_of_the_same_values_are_explained(seed, n_contexts, n_levels) -> None:
    """Random activations with many ties; the peer breaks them as it likes."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, n_levels + 1, (n_contexts, 8)) * (rng.random((n_contexts, 8)) < 0.3)
    values = {(int(c), int(p)): float(v) for (c, p), v in np.ndenumerate(grid)}
    order = sorted(values, key=lambda at: (-values[at], rng.random()))
    peer = [Place(*at, values[at]) for at in order[: equality.N_PLACES]]
    contexts = [[Place(c, p, values[c, p]) for p in range(8) if grid[c, p]] for c in range(n_contexts)]
    ranked = sorted(filter(None, contexts), key=lambda places: -max(place.value for place in places))
    found = equality.compare(
        0, peer, ranked[: equality.N_PLACES], lambda c, p: Token(values[c, p], values[c, p], 0.0, 0.5)
    )
    assert set(reasons(found)) <= {Reason.REPEATED, Reason.SILENT, Reason.TIE}


def test_the_summary_counts_features_and_reasons() -> None:
    compared = {
        1: [],
        2: [Difference(2, 0, 0, Reason.REPEATED), Difference(2, 0, 1, Reason.SILENT)],
        3: [Difference(3, 0, 0, Reason.REPEATED), Difference(3, 1, 0, Reason.TIE)],
    }
    found = equality.summarise(compared)
    assert found["n_features"] == 3
    assert found["n_identical"] == 1
    assert found["n_identical_but_for_ranking_tokens"] == 2
    assert found["differences"][Reason.REPEATED.value] == 2
    assert found["differences"][Reason.UNEXPLAINED.value] == 0
