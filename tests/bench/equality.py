"""SAEDashboard's top activations against ours, feature by feature, with a reason for every difference.

It ranks tokens and gives 20 places, so one context may fill several of them and a feature that fires on fewer tokens
gets places that are silent. We rank contexts. Both lists are reduced to contexts in order of rank; then
1. each of its firings in a context of ours: we have it too, with the same value;
2. each context in both: the maximum at the same position;
3. each pair in both: the same order;
4. each context in one list only: why it is not in the other.
A reason is accepted only where the numbers show it. For a token, `Token` holds the activation computed in float64 from
each side's residuals, and a proven bound of what fp32 summation in any order may add; two tokens may swap ranks, or one
may be missing beside another, only if the intervals these span meet. Anything else is UNEXPLAINED.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

N_PLACES = 20
PEER_ROUNDING = 0.5e-4
"""SAEDashboard gives four decimals."""


class Reason(StrEnum):
    """Why two lists differ at one place."""

    REPEATED = "another token of a context that is already listed takes the place"
    SILENT = "the place is filled with a token on which the feature does not fire"
    TIE = "equal activations"
    SUMMATION = "fp32 sums of the same residuals, in another order"
    FORWARD = "residuals of the two forward passes differ in their last bits"
    THRESHOLD = "the pre-activation lies at the threshold"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Place:
    """One token in a ranking."""

    context: int
    position: int
    value: float


@dataclass(frozen=True, slots=True)
class Token:
    """What one feature's activation at one token may be."""

    ours: float
    """In float64 from our residuals, scaled by the decoder's norm."""
    theirs: float
    """The same from the peer's residuals."""
    bound: float
    """Largest error of an fp32 sum in any order, on either side."""
    cut: float
    """The activation at the threshold: the feature fires above it. 0 where there is none."""

    @property
    def slack(self) -> float:
        """How far the two sides' values may lie apart."""
        return abs(self.ours - self.theirs) + 2 * self.bound

    @property
    def is_at_cut(self) -> bool:
        """It may fire on one side and not on the other."""
        low, high = min(self.ours, self.theirs) - self.bound, max(self.ours, self.theirs) + self.bound
        return low <= self.cut <= high


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the lists differ."""

    feature: int
    context: int
    position: int
    reason: Reason


TokenOf = Callable[[int, int], Token]
"""(context, position) of the feature at hand."""


def compare(
    feature: int, peer: Sequence[Place], ours: Sequence[Sequence[Place]], token_of: TokenOf
) -> list[Difference]:
    """Every difference between the peer's places and our top contexts of one feature, in order of rank.

    `peer` are its places as given; `ours` has, for each of our contexts, all its firings.
    """
    fired = {(place.context, place.position): place for context in ours for place in context}
    best = [max(context, key=lambda place: place.value) for context in ours]
    firing = [place for place in peer if place.value > 0]
    # the first mention of a context is its largest token
    theirs = {place.context: place for place in reversed(firing)}
    mine = {place.context: place for place in best}
    ranked = sorted(theirs.values(), key=firing.index)
    found = [(place, Reason.SILENT) for place in peer if place.value <= 0]
    found += [(place, Reason.REPEATED) for place in firing if theirs[place.context] != place]
    common = [place for place in ranked if place.context in mine]
    for place in firing:
        if place.context in mine:
            found += _at_one_token(place, fired.get((place.context, place.position)), token_of)
    found += [
        (
            place,
            _why_close(token_of(place.context, place.position), token_of(place.context, mine[place.context].position)),
        )
        for place in common
        if place.position != mine[place.context].position
    ]
    found += list(_swaps(common, list(mine), token_of))
    n_repeated = len(firing) - len(ranked)
    for place in best:
        if place.context not in theirs:
            found.append((place, _why_missing(place, firing, is_place_lost=n_repeated > 0, token_of=token_of)))
    for place in ranked:
        if place.context not in mine:
            found.append((place, _why_missing(place, best, is_place_lost=False, token_of=token_of)))
    return [Difference(feature, place.context, place.position, reason) for place, reason in found]


def summarise(compared: dict[int, list[Difference]]) -> dict[str, object]:
    """Counts for the results file: features, those without a difference, and each reason's places."""
    counts = Counter(difference.reason for differences in compared.values() for difference in differences)
    by_definition = {Reason.REPEATED, Reason.SILENT}
    return {
        "n_features": len(compared),
        "n_identical": sum(not differences for differences in compared.values()),
        "n_identical_but_for_ranking_tokens": sum(
            all(difference.reason in by_definition for difference in differences) for differences in compared.values()
        ),
        "differences": {reason.value: counts[reason] for reason in Reason},
    }


def _at_one_token(theirs: Place, mine: Place | None, token_of: TokenOf) -> Iterator[tuple[Place, Reason]]:
    """One of the peer's firings in a context that we list too: we must have it, with its value."""
    token = token_of(theirs.context, theirs.position)
    if mine is None:
        yield theirs, Reason.THRESHOLD if token.is_at_cut else Reason.UNEXPLAINED
    elif abs(theirs.value - mine.value) > token.slack + PEER_ROUNDING:
        yield theirs, Reason.UNEXPLAINED


def _swaps(common: Sequence[Place], our_order: Sequence[int], token_of: TokenOf) -> Iterator[tuple[Place, Reason]]:
    """Pairs that the peer ranks the other way round, each once."""
    rank = {context: i for i, context in enumerate(our_order)}
    for i, first in enumerate(common):
        for second in common[i + 1 :]:
            if rank[first.context] > rank[second.context]:
                pair = [token_of(place.context, place.position) for place in (first, second)]
                yield second, _why_close(*pair)


def _why_missing(place: Place, listed: Sequence[Place], *, is_place_lost: bool, token_of: TokenOf) -> Reason:
    """Why the other side's list, whose places are `listed`, does not have this context."""
    token = token_of(place.context, place.position)
    if len(listed) < N_PLACES:  # it had room: the context must be silent there
        return Reason.THRESHOLD if token.is_at_cut else Reason.UNEXPLAINED
    last = listed[-1]
    if is_place_lost and place.value <= last.value + PEER_ROUNDING:
        return Reason.REPEATED
    return _why_close(token, token_of(last.context, last.position))


def _why_close(a: Token, b: Token) -> Reason:
    """Why two tokens may rank either way."""
    if a.ours == b.ours and a.theirs == b.theirs:
        return Reason.TIE
    if abs(a.ours - b.ours) > a.slack + b.slack:
        return Reason.UNEXPLAINED
    if min(abs(a.ours - b.ours), abs(a.theirs - b.theirs)) <= 2 * (a.bound + b.bound):
        return Reason.SUMMATION
    return Reason.FORWARD
