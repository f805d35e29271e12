"""Jobs on the terminal: a bar for each, with stage, shards, tokens/s and time left. Ctrl-C stops watching, not the job."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from sqlalchemy.orm import Session, sessionmaker

from backend.db.session import transaction
from backend.services import jobs
from backend.services.progress import JobView

POLL_S = 0.5
_ENDED = ("done", "failed", "cancelled")


def follow(
    sessions: sessionmaker[Session],
    job_ids: Sequence[int],
    console: Console,
    *,
    on_poll: Callable[[], None] = lambda: None,
) -> list[JobView]:
    """Show the jobs until all have ended, and return how they ended. `on_poll` runs between looks and may raise."""
    percent, says = TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[says]}")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, says)
    with Progress(*columns, console=console) as progress:
        tasks: dict[int, TaskID] = {}
        said: dict[int, str] = {}
        while True:
            with transaction(sessions) as session:
                views = [jobs.get(session, job_id) for job_id in job_ids]
            for view in views:
                if view.id not in tasks:
                    tasks[view.id] = progress.add_task(view.title, total=1.0, says="")
                progress.update(tasks[view.id], completed=view.fraction, says=sentence(view))
                if not console.is_terminal and said.get(view.id) != (now := _coarsely(view)):
                    said[view.id] = now
                    console.print(f"{view.title}: {sentence(view)}")
            if all(view.state in _ENDED for view in views):
                return views
            on_poll()
            time.sleep(POLL_S)


def _coarsely(view: JobView) -> str:
    """What a log of no terminal repeats a line for: another state, stage, or tenth of the way."""
    return f"{view.state} {view.stage} {int(view.fraction * 10)}"


def sentence(view: JobView) -> str:
    """What a job is doing, in a few words."""
    if view.state == "failed":
        return f"failed: {view.error}"
    if view.state in ("queued", "done", "cancelled"):
        return view.state
    stage = next(stage for stage in view.stages if stage.name == view.stage)
    match stage.name:
        case "encode":
            says = f"encoding, {stage.n_shards_done} of {stage.n_shards} shards"
            says += f", {view.tokens_per_s:,.0f} tokens/s" if view.tokens_per_s else ""
        case "finish":
            says = f"finishing, {stage.n_units_done:,} of {stage.n_units:,} features"
        case "read":
            says = f"reading, {stage.n_units_done / 1e6:,.0f} of {stage.n_units / 1e6:,.0f} MB"
        case "merge":
            says = "sorting texts"
        case "store":
            says = f"storing, {stage.n_units_done:,} of {stage.n_units:,} features"
        case "evaluate":
            says = f"evaluating, {stage.n_units_done:,} of {stage.n_units:,} tokens"
        case "prepare" if view.is_import:
            says = f"looking at files, {stage.n_units_done / 1e6:,.0f} MB"
        case _:
            says = "preparing" + (f", {stage.n_units_done:,} tokens" if stage.n_units_done else "")
    return says + (f", {duration(view.seconds_left)} left" if view.seconds_left is not None else "")


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
