"""A feature's page, and the ways that lead to one: at random, by index, by token."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from backend import errors, names
from backend.formats.dashboards import N_INTERVALS
from backend.services import catalog, explanations, feature_notes, features
from backend.services.feature_notes import FeatureNotes
from backend.services.features import FeatureQuery, FeatureView, GroupView
from backend.web import callers, charts, concordance, embedding, feature_card, links, numerals, rendering
from backend.web.dependencies import DbSession, Viewing
from backend.web.embedding import Parts
from backend.web.pages import explaining, steering, trying
from backend.web.pages.explaining import ShownExplanation

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class GroupLines:
    """The lines of the top contexts or of an interval."""

    is_top: bool
    low: str
    high: str
    fraction: float
    shades: tuple[int, ...]
    """The two shades of an interval; empty for the top."""
    lines: tuple[concordance.Line, ...]
    is_negative: bool


@dataclass(frozen=True, slots=True)
class ActivationCharts:
    """The same firings on two axes; one is shown."""

    log: Markup
    """Empty for a signed feature, whose values have no logarithm, and for an imported one."""
    linear: Markup


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a feature's page is shown elsewhere."""

    url: str
    """Of the page, with the site's name; so are the next two."""
    card_url: str
    oembed_url: str
    title: str
    description: str
    code: str
    """To embed it with."""


@dataclass(frozen=True, slots=True)
class FeatureContext:
    """What `pages/feature.html` shows."""

    feature: FeatureView
    groups: tuple[GroupLines, ...]
    legend: Markup
    activations: ActivationCharts | None
    """None where there is nothing to spread out: no firings, or all equal."""
    logits: Markup
    """Empty without a logit lens."""
    largest_logit: float
    """By magnitude, of the tokens listed; bars are drawn against it."""
    steer_url: str
    """Where the model is steered with this feature."""
    texts: tuple[str, ...] = ()
    """The reader's own, which the page asks about once it is there."""
    explanations: tuple[ShownExplanation, ...] = ()
    """The best first."""
    near: Mapping[int, str] = field(default_factory=dict)
    """The best explanation of each neighbour that has one, by index."""
    notes: FeatureNotes | None = None
    """None where they are not shown."""
    sharing: Sharing | None = None
    """None where the page is not to be shared."""
    parts: Parts = Parts()  # noqa: RUF009 - frozen
    """What is shown of it where it is embedded."""

    @property
    def headline(self) -> str:
        """The best explanation; empty where there is none."""
        return self.explanations[0].view.description if self.explanations else ""


@router.get("/{model}/{source}/random")
def show_random(session: DbSession, model: str, source: str) -> RedirectResponse:
    """Leads to a feature that fires."""
    index = features.random_index(session, model, source)
    return RedirectResponse(names.feature_url(model, source, index), 303, headers={"Cache-Control": "no-store"})


@router.get("/{model}/{source}/find")
def find(session: DbSession, model: str, source: str, q: str = "") -> RedirectResponse:
    """Leads to the feature with that index, or to the features of that token."""
    view = catalog.source(session, model, source)
    return RedirectResponse(found_url(view, q), 303)


@router.get("/{model}/{source}/{index:int}")
def show(
    request: Request,
    session: DbSession,
    viewer: Viewing,
    model: str,
    source: str,
    index: int,
    text: trying.Texts = (),
) -> HTMLResponse:
    """The dashboard, with room for what the live worker will say of the texts; bare where it is embedded."""
    ref = names.FeatureRef(model, source, index)
    view = features.get(session, ref)
    explained = explaining.shown(viewer, explanations.of_feature(session, ref))
    page, texts = replace(context(view), explanations=explained), trying.read(text)
    if embedding.is_asked(request.query_params):
        parts = embedding.parts(request.query_params)
        texts = (*texts, *trying.read([parts.test_text])) if parts.test_text else texts
        response = rendering.respond(request, "pages/embed.html", replace(page, texts=texts, parts=parts))
        return embedding.frameable(response)
    near = explanations.headlines(session, [replace(ref, index=each.index) for each in view.neighbours])
    page = replace(page, near={of.index: said for of, said in near.items()})
    site = callers.site_url(request.headers, request.app.state.settings)
    page = replace(page, texts=texts, notes=feature_notes.of(session, ref), sharing=sharing(view, site, page.headline))
    return rendering.respond(request, "pages/feature.html", page)


def sharing(feature: FeatureView, site: str, explained: str = "") -> Sharing:
    """How the feature's page on `site` is shown elsewhere."""
    ref = (feature.source.model, feature.source.name, feature.index)
    url = site + names.feature_url(*ref)
    title = f"{feature.source.model}/{feature.source.name}/{feature.index}"
    return Sharing(
        url=url,
        card_url=site + links.card_url(*ref),
        oembed_url=site + links.oembed_url(url),
        title=title,
        description=feature_card.description(feature, explained),
        code=embedding.code(url, title),
    )


def found_url(source: catalog.SourceView, text: str) -> str:
    """Digits are an index, a reference's last part too; anything else is a token, spaces at its ends included."""
    index = text.strip().rpartition("/")[2]
    if not (index.isascii() and index.isdigit()):
        return links.features_url(source.model, source.name, FeatureQuery(token=text))
    if source.d_sae and int(index) >= source.d_sae:
        raise errors.NotFoundError(
            f"{source.model}/{source.name} has no feature {index}.", hint=f"Its features are 0 to {source.d_sae - 1}."
        )
    return names.feature_url(source.model, source.name, int(index))


def context(feature: FeatureView) -> FeatureContext:
    """Lines, shades and charts of the feature."""
    lens = feature.logit_lens
    ends = concordance.Range(feature.max_value, min(0.0, feature.min_value))
    return FeatureContext(
        feature=feature,
        groups=tuple(_group(group, ends) for group in feature.groups),
        legend=charts.signed_legend(ends) if feature.signed else charts.legend(feature.max_value),
        activations=_activations(feature, ends),
        logits=charts.logits(lens.histogram) if lens and lens.histogram.counts else Markup(""),
        largest_logit=max((abs(logit) for _, logit in (*lens.top, *lens.bottom)), default=1.0) if lens else 1.0,
        steer_url=steering.url_of(feature),
    )


def _activations(feature: FeatureView, ends: concordance.Range) -> ActivationCharts | None:
    if feature.signed:
        if len(feature.linear_histogram.counts) < 2:
            return None
        linear = charts.signed_values(feature.linear_histogram, ends, is_dense=feature.signed.is_dense)
        return ActivationCharts(log=Markup(""), linear=linear)
    if len(feature.linear_histogram.counts) < 2:
        return None
    log = feature.log_histogram
    return ActivationCharts(
        log=charts.activations(log, feature.max_value, is_log=True) if len(log.counts) > 1 else Markup(""),
        linear=charts.activations(feature.linear_histogram, feature.max_value, is_log=False),
    )


def _group(group: GroupView, ends: concordance.Range) -> GroupLines:
    decimals = numerals.decimals_for(ends.size)
    farthest, end = (group.low, ends.minimum) if group.is_negative else (group.high, ends.maximum)
    interval = max(1, min(N_INTERVALS, round(N_INTERVALS * farthest / end))) if end else 1
    return GroupLines(
        is_top=group.is_top,
        low=numerals.fixed(group.low, decimals),
        high=numerals.fixed(group.high, decimals),
        fraction=group.fraction,
        shades=() if group.is_top else (2 * interval - 1, 2 * interval),
        lines=tuple(
            concordance.line(
                example, ends.maximum, minimum=ends.minimum, at=example.peak(is_negative=group.is_negative)
            )
            for example in group.examples
        ),
        is_negative=group.is_negative,
    )
