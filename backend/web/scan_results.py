"""What a scan found, as its page shows it: the logit and its parts in one chart, a small one for each cluster, a table.

Shape is what the lines of a cluster share, so its chart shows how far each has moved from where it is without the
vector, on a scale of its own. The table is the legend. Where there are many components, those that swing most are shown;
the CSV has all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from backend import names
from backend.formats.messages import Component, ScanReply
from backend.web import charts, numerals, scan_charts, token_text
from backend.web.scan_charts import Curve

MAX_SHOWN = 100
"""Components with a row and a line of their own."""
_WHOLE_HEIGHT, _CLUSTER_HEIGHT = 300, 150
_N_NAMED, _N_NAMED_IN_CLUSTER = 9, 7
_UNCHANGED = -1
_BEFORE: Mapping[str, tuple[str, ...]] = {
    "attn.hook_z": ("attention", "head"), "hook_attn_out": ("attention", "head"), "hook_resid_mid": ("attention", "head"),
    "mlp.hook_post": ("attention", "head", "mlp"), "hook_mlp_out": ("attention", "head", "mlp"),
    "hook_resid_post": ("attention", "head", "mlp"),
}  # fmt: skip
"""By where in a block the vector is added: what the block has written by then."""


@dataclass(frozen=True, slots=True)
class Row:
    """One component; or the logit, or the norm's scale."""

    number: int
    """Its lines have the same."""
    name: str
    is_before: bool
    """Written before the vector is added: it changes by the final norm's scale alone."""
    swing: str
    values: tuple[str, ...]
    """At every coefficient, with a plain minus and no separators: scripts read them too."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Components of one shape."""

    title: str
    kind: str
    """Class of its lines."""
    chart: Markup
    """Empty for what does not change."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Everything below the form."""

    reply: ScanReply
    text: tuple[Markup, ...]
    """The tokens."""
    coefficients: tuple[str, ...]
    """As a row's values are written."""
    ends: tuple[str, str]
    """The first and the last, as pages write them."""
    at: int
    """The coefficient the table shows first and clusters are drawn from: the nearest to 0."""
    chart: Markup
    """Empty for a single coefficient."""
    heads: tuple[Row, ...]
    """The logit, and what the final norm divides by."""
    clusters: tuple[Cluster, ...]
    n_hidden: int
    """Components that are only in the CSV."""


def result(reply: ScanReply) -> Result:
    """Charts and tables of a scan."""
    by_swing = sorted(range(len(reply.components)), key=lambda i: -_swing(reply.components[i].values))
    shown = [reply.components[i] for i in sorted(by_swing[:MAX_SHOWN])]
    at = min(range(len(reply.coefficients)), key=lambda i: abs(reply.coefficients[i]))
    swings = [_swing(values) for values in (reply.total, *(each.values for each in shown))]
    decimals = numerals.decimals_for(max(swings) or max(map(abs, reply.total)))
    heads = [Row(len(shown), "logit", False, *_written(reply.total, decimals))]
    if reply.scale:
        written = _written(reply.scale, numerals.decimals_for(max(reply.scale)))
        heads.append(Row(len(shown) + 1, "norm’s scale", False, *written))
    return Result(
        reply=reply,
        text=tuple(map(token_text.flowing, reply.tokens)),
        coefficients=_coefficients(reply),
        ends=(charts.short(reply.coefficients[0]), charts.short(reply.coefficients[-1])),
        at=at,
        chart=_chart(reply, shown),
        heads=tuple(heads),
        clusters=_clusters(reply, shown, at, decimals),
        n_hidden=len(reply.components) - len(shown),
    )


def name_of(component: Component) -> str:
    """In words: `attention 3`, `MLP 3`, `head 3.5`."""
    match component.kind:
        case "attention":
            return f"attention {component.layer}"
        case "mlp":
            return f"MLP {component.layer}"
        case "head":
            return f"head {component.layer}.{component.head}"
    return component.kind


def _chart(reply: ScanReply, shown: Sequence[Component]) -> Markup:
    lines = [Curve(name_of(each), each.values, _kind(each.cluster), i) for i, each in enumerate(shown)]
    logit = Curve("logit", reply.total, "total", len(shown))
    first, last = reply.coefficients[0], reply.coefficients[-1]
    label = (
        f"The logit and {len(shown)} of its parts by coefficient. The logit is {charts.short(reply.total[0])} at "
        f"{charts.short(first)} and {charts.short(reply.total[-1])} at {charts.short(last)}."
    )
    return scan_charts.curves(
        reply.coefficients, [*lines[::-1], logit], ("logits", label), height=_WHOLE_HEIGHT, n_named=_N_NAMED
    )


def _clusters(reply: ScanReply, shown: Sequence[Component], at: int, decimals: int) -> tuple[Cluster, ...]:
    """By number, which goes by the greatest swing; what does not change comes last."""
    clusters = sorted({each.cluster for each in shown}, key=lambda cluster: (cluster == _UNCHANGED, cluster))
    by_swing = sorted(enumerate(shown), key=lambda numbered: -_swing(numbered[1].values))
    return tuple(
        _cluster(reply, [(i, each) for i, each in by_swing if each.cluster == cluster], at, decimals)
        for cluster in clusters
    )


def _cluster(reply: ScanReply, members: Sequence[tuple[int, Component]], at: int, decimals: int) -> Cluster:
    hook_point, cluster = names.parse_hook_point(reply.hook_point), members[0][1].cluster
    rows = tuple(
        Row(i, name_of(each), _is_before(each, hook_point), *_written(each.values, decimals)) for i, each in members
    )
    title, kind = "Unchanged" if cluster == _UNCHANGED else f"Cluster {cluster + 1}", _kind(cluster)
    if cluster == _UNCHANGED:
        return Cluster(title, kind, Markup(""), rows)
    since = numerals.minus(_coefficients(reply)[at])
    moved = [Curve(name_of(each), [value - each.values[at] for value in each.values], kind, i) for i, each in members]
    label = (
        f"{title}, {len(rows)} component{'' if len(rows) == 1 else 's'}: how far each moved from coefficient {since}. "
        f"{rows[0].name} swings most, by {rows[0].swing}."
    )
    chart = scan_charts.curves(
        reply.coefficients, moved[::-1], (f"change in logits from {since}", label),
        height=_CLUSTER_HEIGHT, n_named=_N_NAMED_IN_CLUSTER,
    )  # fmt: skip
    return Cluster(title, kind, chart, rows)


def _kind(cluster: int) -> str:
    return "flat" if cluster == _UNCHANGED else f"k{cluster + 1}"


def _is_before(component: Component, hook_point: names.HookPoint) -> bool:
    if component.kind == "embedding":
        return True
    if component.layer is None or component.layer > hook_point.layer:
        return False
    return component.layer < hook_point.layer or component.kind in _BEFORE.get(hook_point.place, ())


def _swing(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _coefficients(reply: ScanReply) -> tuple[str, ...]:
    """With two digits of the step between neighbours; without decimals where all are whole numbers."""
    values = reply.coefficients
    if all(value == round(value) for value in values):
        return tuple(_plain(value, 0) for value in values)
    step = (values[-1] - values[0]) / max(1, len(values) - 1) or abs(values[0])
    return tuple(_plain(value, max(0, 1 - math.floor(math.log10(step)))) for value in values)


def _written(values: Sequence[float], decimals: int) -> tuple[str, tuple[str, ...]]:
    """Their swing, and each."""
    return _plain(_swing(values), decimals), tuple(_plain(value, decimals) for value in values)


def _plain(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
