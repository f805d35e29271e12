"""URLs that only pages use: where forms go and what they lead to. Everything else is in `backend/names.py`."""

from dataclasses import asdict

from backend import names
from backend.services.features import FeatureQuery

_DEFAULTS = FeatureQuery()


def features_url(model: str, source: str, query: FeatureQuery) -> str:
    """A source's page showing what `query` says; defaults are left out, so that equal views have equal URLs."""
    given = {key: value for key, value in asdict(query).items() if value != getattr(_DEFAULTS, key)}
    if "is_descending" in given:
        given["order"] = "desc" if given.pop("is_descending") else "asc"
    if "with_dead" in given:
        given["dead"] = int(given.pop("with_dead"))
    given.pop("per_page", None)
    return names.source_url(model, source, **given)


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
