"""The quick look as part of a job: kept with its source, told in the job's log, and a reason to stop."""

from safetensors.torch import load_file, save_file

from backend.db.session import transaction
from backend.services import catalog, events, jobs
from backend.services.progress import JobView
from tests import tiny
from tests.nursery import Forked
from tests.site import Site
from tests.site import site as site


def silent(site: Site, name: str) -> None:
    """An SAE no feature of which ever fires."""
    folder = tiny.save_sae(site.folder / "sae" / name, d_sae=64, metadata={"hook_name": "blocks.1.hook_resid_post"})
    path = folder / "sae_weights.safetensors"
    save_file(load_file(path) | {"b_enc": load_file(path)["b_enc"] * 0 - 1e6}, path)


def is_past_prepare(view: JobView) -> bool:
    assert view.state not in ("failed", "cancelled"), view.error
    return view.stage != "prepare"


def end(site: Site, job_id: int, worker: Forked) -> None:
    """What follows is not looked at here."""
    with transaction(site.sessions) as session:
        jobs.cancel(session, job_id)
    worker.kill()


def test_a_job_looks_before_it_computes(site: Site) -> None:
    """Random weights fit nothing: the log says so, and the job goes on all the same."""
    job_id = site.add("1-looked")
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, is_past_prepare)
    with transaction(site.sessions) as session:
        look = catalog.look(session, "tiny-gpt2", "1-looked")
        said = [line.text for line in events.of_job(session, job_id) if line.level == "warning"]
    end(site, job_id, worker)
    assert look is not None
    assert look.hook_point == "blocks.1.hook_resid_post"
    assert look.warnings
    assert said == [f"1-looked: {finding.sentence} {finding.advice}" for finding in look.warnings]


def test_an_sae_that_never_fires_is_not_computed_unless_forced(site: Site) -> None:
    silent(site, "1-silent")
    job_id = site.add("1-silent")
    worker = site.fork_worker()
    site.wake()
    view = site.wait(job_id, lambda v: v.state == "failed")
    with transaction(site.sessions) as session:
        look = catalog.look(session, "tiny-gpt2", "1-silent")
    assert look is not None
    assert view.error == " ".join(f"1-silent: {finding.sentence} {finding.advice}" for finding in look.fatal)
    assert "no feature fires on any" in view.error
    forced_id = site.add("1-silent", is_forced=True)
    site.wake()
    site.wait(forced_id, is_past_prepare)
    end(site, forced_id, worker)
