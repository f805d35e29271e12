"""What a text search found, arranged for its page: the text's tokens, and lists of features as lines.

Each feature's line is the reader's text, shaded as the feature's own examples are: against the largest activation it had
on its corpus. In its middle stands the token it is listed for: the strongest of those chosen, of its group, or of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from backend.formats.messages import Found, TextSearch
from backend.services.catalog import SourceView
from backend.services.features import ExampleView
from backend.services.summaries import SummaryView
from backend.web import concordance, numerals, token_text
from backend.web.text_query import By, TextQuery

N_RESULTS: Mapping[By, int] = {"feature": 50, "layer": 10, "token": 5}
"""Features of the whole text, of each source, of each token."""
N_TOKENS_APART = 60
"""By token, the first so many are shown, unless some are chosen."""
N_DENSE = 50
"""Features folded away: the strongest."""
Known = Mapping[tuple[str, int], SummaryView]


@dataclass(frozen=True, slots=True)
class TokenButton:
    """A token of the text, which can be chosen."""

    position: int
    text: Markup
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class FeatureLine:
    """A feature of a list."""

    source: str
    index: int
    summary: SummaryView | None
    """None for one that cannot be read yet."""
    line: concordance.Line
    ends: concordance.Range
    """What its shades are shares of."""


@dataclass(frozen=True, slots=True)
class Group:
    """Features under a heading: a source's, a token's, or none where there is one list."""

    source: SourceView | None
    token: TokenButton | None
    features: tuple[FeatureLine, ...]


@dataclass(frozen=True, slots=True)
class FoundFeatures:
    """The results of a search."""

    tokens: tuple[TokenButton, ...]
    """Without the BOS put before the text, unless it counts."""
    groups: tuple[Group, ...]
    dense: tuple[FeatureLine, ...]
    """Folded away."""

    @property
    def n_features(self) -> int:
        """Features listed, each counted once."""
        return len({(each.source, each.index) for group in self.groups for each in group.features})

    @property
    def is_cut(self) -> bool:
        """By token, some tokens have no group because the text has too many."""
        return len(self.tokens) > N_TOKENS_APART and not any(token.is_chosen for token in self.tokens)


def arranged(
    query: TextQuery, sources: Sequence[SourceView], answer: TextSearch, dense: Sequence[Found], known: Known
) -> FoundFeatures:
    """The lists and buttons of an answer.

    Args:
        query: What was asked.
        sources: Those there are, in the order of the lists.
        answer: What was found: the best of the text, or of each source or token where `query` says so.
        dense: What is folded away.
        known: What is known of the features.
    """
    n_hidden = int(answer.is_special[:1] == (True,) and not query.is_bos_counted)
    tokens = tuple(
        TokenButton(at, token_text.isolated(text), at in query.sort)
        for at, text in enumerate(answer.tokens)
        if at >= n_hidden
    )
    chosen = tuple(token.position for token in tokens if token.is_chosen)
    lines = _Lines(answer.tokens[n_hidden:], n_hidden, chosen, known)
    match query.by:
        case "feature":
            groups = [Group(None, None, lines.ranked(answer.found))]
        case "layer":
            groups = [
                Group(source, None, lines.ranked([each for each in answer.found if each.source == source.name]))
                for source in sources
            ]
        case "token":
            apart = [token for token in tokens if token.is_chosen] or tokens[:N_TOKENS_APART]
            groups = [Group(None, token, lines.at(answer.found, token.position)) for token in apart]
    folded = sorted(dense, key=lambda each: -lines.score(each))[:N_DENSE]
    return FoundFeatures(tokens, tuple(group for group in groups if group.features), lines.ranked(folded))


@dataclass(frozen=True, slots=True)
class _Lines:
    """Makes lines on one text."""

    tokens: tuple[str, ...]
    """Those that are shown."""
    n_hidden: int
    """Tokens before them."""
    chosen: tuple[int, ...]
    known: Known

    def ranked(self, found: Sequence[Found]) -> tuple[FeatureLine, ...]:
        """In the order they are found in; their number is what they are ranked by."""
        return tuple(self._line(each, self._best(each), self.score(each)) for each in found)

    def at(self, found: Sequence[Found], position: int) -> tuple[FeatureLine, ...]:
        """The strongest on one token."""
        firing = sorted((each for each in found if each.values[position] > 0), key=lambda each: -each.values[position])
        return tuple(self._line(each, position, each.values[position]) for each in firing[: N_RESULTS["token"]])

    def score(self, each: Found) -> float:
        """What it is ranked by: the sum on the chosen tokens, or the largest activation."""
        return sum(each.values[at] for at in self.chosen) if self.chosen else max(each.values, default=0.0)

    def _best(self, each: Found) -> int:
        return max(self.chosen or range(self.n_hidden, len(each.values)), key=each.values.__getitem__)

    def _line(self, each: Found, at: int, value: float) -> FeatureLine:
        summary = self.known.get((each.source, each.index))
        ends = concordance.Range(max(each.values), min(0.0, *each.values))
        if summary and summary.n_firings:
            ends = concordance.Range(summary.max_value, summary.min_value)
        fires = [(place, shown) for place, shown in enumerate(each.values[self.n_hidden :]) if shown]
        view = ExampleView(
            context=0, tokens=self.tokens, positions=tuple(place for place, _ in fires),
            values=tuple(shown for _, shown in fires), max_value=max(each.values), max_position=at - self.n_hidden,
        )  # fmt: skip
        line = concordance.line(
            view, ends.maximum, minimum=ends.minimum, at=at - self.n_hidden,
            other=dict.fromkeys((place - self.n_hidden for place in self.chosen), 0.0),
        )  # fmt: skip
        shown = numerals.fixed(value, numerals.decimals_for(ends.size))
        return FeatureLine(each.source, each.index, summary, replace(line, value=shown), ends)
