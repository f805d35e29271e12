"""The demo: a small model and three SAEs that ship with the code, over the reader's own standard library.

Registering is idempotent: what is computed is left alone, what was interrupted is queued again.
"""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from backend.errors import ConflictError
from backend.services import catalog, hosting, jobs
from backend.settings import REPOSITORY
from demo import stdlib_text

WEIGHTS = REPOSITORY / "demo" / "weights"
MODEL = "stdlib-4l"
SOURCES = ("2-res-2k", "1-res-2k", "3-res-2k")
"""In the order they are finished: the middle layer first, since its features read best."""
TEXT_BYTES = 5_000_000
MAX_TOKENS = 1_000_000
QUALITY_TOKENS = 16_384
"""Of the model's four ways each; its card has the numbers on four times as many."""


def register(session: Session, data: Path, *, n_sources: int | None = None) -> list[int]:
    """Host the demo; return the jobs that have yet to end, oldest first. Empty when all is computed.

    Sources nobody has asked for yet are one job: one pass over the text.
    """
    job_ids: list[int] = []
    fresh = []
    for name in SOURCES[:n_sources]:
        job = jobs.of_source(session, MODEL, name) if _is_hosted(session, name) else None
        if job is None:
            fresh.append(WEIGHTS / "saes" / name)
        elif job.state != "done" and job.id not in job_ids:
            if job.state in ("failed", "cancelled"):
                jobs.retry(session, job.id)
            job_ids.append(job.id)
    if fresh:
        hosted = hosting.register(session, str(WEIGHTS / MODEL), fresh, _spec(data))
        assert hosted.job_id is not None, "dashboards are wanted"
        job_ids.append(hosted.job_id)
    return job_ids


def _is_hosted(session: Session, name: str) -> bool:
    return any(model.id == MODEL and any(s.name == name for s in model.sources) for model in catalog.models(session))


def _spec(data: Path) -> dict[str, Any]:
    text = data / "demo" / "stdlib.txt"
    if not text.is_file():
        text.parent.mkdir(parents=True, exist_ok=True)
        partial = text.with_suffix(".partial")
        if stdlib_text.write(partial, max_bytes=TEXT_BYTES) == 0:
            raise ConflictError("this Python has no standard library in source form; the demo needs its text.")
        partial.replace(text)
    return {
        "corpus": str(text), "is_tokens": False, "max_tokens": MAX_TOKENS, "dtype": "float32", "seed": 0,
        "quality_tokens": QUALITY_TOKENS,
    }  # fmt: skip
