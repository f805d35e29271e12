"""URLs that only pages use: where forms go and what they lead to. Everything else is in `backend/names.py`."""

from dataclasses import asdict
from urllib.parse import urlencode

from backend import names
from backend.services.activation_index import ActivationQuery, CofiringQuery, PairQuery
from backend.services.features import FeatureQuery

_DEFAULTS = FeatureQuery()
_ACTIVATIONS, _COFIRING, _PAIR = ActivationQuery(), CofiringQuery(), PairQuery()

Query = ActivationQuery | CofiringQuery | PairQuery


def features_url(model: str, source: str, query: FeatureQuery) -> str:
    """A source's page showing what `query` says."""
    return names.source_url(model, source, **_parameters(query))


def features_api_url(model: str, source: str, query: FeatureQuery) -> str:
    """The same table as JSON."""
    return "/api/features" + names.source_url(model, source, **_parameters(query))


def index_url(model: str, source: str) -> str:
    """Where the form for one feature or two sends their indexes."""
    return f"{names.source_url(model, source)}/index"


def activations_url(model: str, source: str, index: int, query: ActivationQuery = _ACTIVATIONS) -> str:
    """All firings of a feature, as `query` says."""
    return _with(f"{names.feature_url(model, source, index)}/activations", query, _ACTIVATIONS)


def cofiring_url(model: str, source: str, index: int, query: CofiringQuery = _COFIRING) -> str:
    """The features that fire with one, as `query` says."""
    return _with(f"{names.feature_url(model, source, index)}/cofiring", query, _COFIRING)


def pair_url(model: str, source: str, index: int, other: int, query: PairQuery = _PAIR) -> str:
    """Contexts of two features, as `query` says."""
    return _with(f"{names.feature_url(model, source, index)}/pair/{other}", query, _PAIR)


def index_api_url(page_url: str) -> str:
    """The answer one of the three pages shows, as JSON."""
    return f"/api/index{page_url}"


def random_feature_url(model: str, source: str) -> str:
    """Leads to some feature that fires."""
    return f"{names.source_url(model, source)}/random"


def find_url(model: str, source: str) -> str:
    """Where the box for an index or a token sends its text."""
    return f"{names.source_url(model, source)}/find"


def definition_url(term: str) -> str:
    """What a number means."""
    return f"/definitions#{term}"


def definitions_url() -> str:
    """What every number means."""
    return "/definitions"


def jobs_url() -> str:
    """All jobs."""
    return "/jobs"


def job_progress_url(job_id: int) -> str:
    """The part of a job's page that changes."""
    return f"{names.job_url(job_id)}/progress"


def job_cancel_url(job_id: int) -> str:
    """Cancels a job."""
    return f"{names.job_url(job_id)}/cancel"


def job_retry_url(job_id: int) -> str:
    """Starts a failed or cancelled job again."""
    return f"{names.job_url(job_id)}/retry"


def job_api_url(job_id: int) -> str:
    """A job as JSON."""
    return f"/api{names.job_url(job_id)}"


def _parameters(query: FeatureQuery) -> dict[str, str | int | float | None]:
    """As the API names them; defaults are left out, so that equal views have equal URLs."""
    given = {key: value for key, value in asdict(query).items() if value != getattr(_DEFAULTS, key)}
    renamed = {"is_descending": "descending"}
    return {renamed.get(key, key): int(value) if value is True else value for key, value in given.items()}


def _with(path: str, query: Query, defaults: Query) -> str:
    """Defaults are left out, so that equal views have equal URLs."""
    plain = asdict(defaults)
    given = {key: value for key, value in asdict(query).items() if value != plain[key]}
    return f"{path}?{urlencode(given)}" if given else path
