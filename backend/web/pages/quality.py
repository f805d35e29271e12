"""The part of a source's page that says how good it is: a table of figures, and charts by position."""

from dataclasses import dataclass

from markupsafe import Markup

from backend.formats.quality import Evaluation, Metric, Quality
from backend.web import line_charts
from backend.web.line_charts import Line

_ROWS = (
    ("explained_variance", "explained variance", "explained-variance"),
    ("cosine", "cosine", "reconstruction-cosine"),
    ("mse", "MSE", "mse"),
    ("l0", "L0", "l0"),
    ("l1", "L1", "l1"),
    ("loss_clean", "loss, model alone", "loss"),
    ("loss_sae", "loss with SAE", "loss"),
    ("loss_zero", "loss, zero ablation", "loss"),
    ("loss_mean", "loss, mean ablation", "loss"),
    ("loss_recovered_zero", "recovered, zero", "loss-recovered"),
    ("loss_recovered_mean", "recovered, mean", "loss-recovered"),
    ("kl_sae", "KL with SAE", "kl"),
    ("kl_zero", "KL, zero ablation", "kl"),
    ("kl_mean", "KL, mean ablation", "kl"),
)
"""Metric, what the table calls it, definition."""

_CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("explained variance", (("explained_variance", "explained variance"),)),
    ("cosine", (("cosine", "cosine"),)),
    ("MSE", (("mse", "MSE"),)),
    ("L0", (("l0", "L0"),)),
    ("loss with SAE, nats; dashed: model alone", (("loss_sae", "with SAE"), ("loss_clean", "alone"))),
    ("loss recovered from zero; dashed: from mean", (("loss_recovered_zero", "from zero"), ("loss_recovered_mean", "from mean"))),
    ("KL with SAE, nats", (("kl_sae", "KL"),)),
)  # fmt: skip
"""Title, and metrics with their names; the second is dashed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, over each sample."""

    name: str
    term: str
    figures: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class QualityPanel:
    """What `parts/quality.html` shows."""

    samples: tuple[Evaluation, ...]
    """The corpus's contexts, and longer ones if those were measured."""
    rows: tuple[Row, ...]
    charts: tuple[Markup, ...]
    """Over the longest contexts there are."""
    notes: tuple[str, ...]
    gist: tuple[tuple[str, str, float], ...]
    """For the top of the page: name, definition, share."""


def panel(quality: Quality) -> QualityPanel:
    """Figures and charts of an evaluation."""
    samples = (quality.corpus,) if quality.longer is None else (quality.corpus, quality.longer)
    known = quality.corpus.metrics
    rows = [
        Row(name, term, tuple(sample.metrics[metric] for sample in samples))
        for metric, name, term in _ROWS
        if metric in known
    ]
    gist = [
        (name, term, value)
        for metric, name, term in (
            ("explained_variance", "explained variance", "explained-variance"),
            ("loss_recovered_zero", "loss recovered", "loss-recovered"),
        )
        if metric in known and (value := known[metric].value) is not None
    ]
    return QualityPanel(samples, tuple(rows), _charts(quality, samples[-1]), quality.notes, tuple(gist))


def _charts(quality: Quality, longest: Evaluation) -> tuple[Markup, ...]:
    drawn = []
    for title, shown in _CHARTS:
        lines = [Line(name, longest.metrics[m].by_position) for m, name in shown if m in longest.metrics]
        if lines:
            drawn.append(line_charts.by_position(title, lines, trained=quality.trained_context_size))
    return tuple(chart for chart in drawn if chart)
