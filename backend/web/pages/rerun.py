"""Computing a source again: a form with what may differ, and the button on it."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from backend import errors, names
from backend.services import access, catalog, corpora, rerun
from backend.services.corpora import CorpusView
from backend.web import rendering
from backend.web.dependencies import DbSession, Viewing

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

DTYPES = ("float32", "bfloat16", "float16")
Text = Annotated[str, Form()]


@dataclass(frozen=True, slots=True)
class RerunContext:
    """What `pages/rerun.html` shows."""

    source: catalog.SourceView
    corpora: tuple[CorpusView, ...]
    may_give_path: bool
    """The reader is the host's operator."""
    dtypes: tuple[str, ...] = DTYPES


@router.get("/{model}/{source}/rerun")
def ask(request: Request, session: DbSession, viewer: Viewing, model: str, source: str) -> HTMLResponse:
    """What may differ, to who may compute it again."""
    view = catalog.source(session, model, source)
    access.check_may_change(viewer, view.owner_id)
    page = RerunContext(view, corpora.of_model(session, model), viewer.is_admin)
    return rendering.respond(request, "pages/rerun.html", page)


@router.post("/{model}/{source}/rerun")
def start(
    session: DbSession,
    model: str,
    source: str,
    corpus: Text = "",
    path: Text = "",
    context_size: Text = "",
    max_tokens: Text = "",
    dtype: Text = "",
    seed: Text = "",
) -> RedirectResponse:
    """Queues it; the sweep wakes the workers. Empty fields stay as they were."""
    numbers = {"context_size": context_size, "max_tokens": max_tokens, "seed": seed}
    changed: dict[str, Any] = {name: _number(name, text) for name, text in numbers.items() if text.strip()}
    if dtype:
        if dtype not in DTYPES:
            raise errors.InvalidInputError(f"'{dtype[:40]}' is no dtype.", hint=f"Choose one of {', '.join(DTYPES)}.")
        changed["dtype"] = dtype
    corpus_id = _number("corpus", corpus) if corpus else None
    catalog.source(session, model, source)
    given = rerun.corpus_given(session, model, corpus_id=corpus_id, corpus_path=path.strip(), is_tokens=False)
    job_id = rerun.rerun(session, model, [source], changed | given)
    return RedirectResponse(names.job_url(job_id), 303)


def _number(name: str, text: str) -> int:
    digits = text.strip().replace(",", "")
    if not (digits.isascii() and digits.isdigit() and int(digits) < 2**31):
        raise errors.InvalidInputError(f"{name} must be a whole number, not '{text[:40]}'.")
    return int(digits)
