"""Small pieces at the edges: queue addresses, blobs, progress in words, names."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend import broker, errors, names, storage
from backend.cli import follow
from backend.services.jobs import JobView, StageView
from backend.settings import Settings


def test_celery_reads_the_queue_s_address_in_its_own_spelling() -> None:
    assert broker.celery_url("unix:///tmp/a/q.sock?db=2") == "redis+socket:///tmp/a/q.sock?virtual_host=2"
    assert broker.celery_url("redis://host:6379/1") == "redis://host:6379/1"
    with pytest.raises(errors.InvalidInputError, match="EYEPIECE_REDIS_URL"):
        broker.celery_url("")


@pytest.mark.parametrize("url", ["", "memory://test-blobs"])
def test_blobs_are_put_whole_and_read_by_path(tmp_path: Path, url: str) -> None:
    store = storage.store(Settings(data=tmp_path / "data", blob_url=url))
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    store.put("jobs/1/a", file)
    assert not file.exists()
    assert store.exists("jobs/1/a")
    with store.local("jobs/1/a") as path:
        assert path.read_bytes() == b"bytes"
    store.delete_folder("jobs/1")
    store.delete_folder("jobs/1")
    assert not store.exists("jobs/1/a")


def job(state: str = "running", *stages: StageView, **rest: object) -> JobView:
    given = {"tokens_per_s": None, "seconds_left": None, "error": None} | rest
    stage = stages[-1].name if stages else "prepare"
    times = {"created_at": datetime.now(UTC), "started_at": None, "finished_at": None}
    return JobView(1, "m", "s", state, stage, stages, 0.5, **given, **times)


def test_a_job_says_what_it_is_doing() -> None:
    encode = StageView("encode", 7, 3, 700, 300)
    assert follow.sentence(job("running", encode, tokens_per_s=12345.6, seconds_left=200.0)) == (
        "encoding, 3 of 7 shards, 12,346 tokens/s, 3 min 20 s left"
    )
    assert follow.sentence(job("running", StageView("finish", 1, 0, 2048, 512))) == "finishing, 512 of 2,048 features"
    evaluate = StageView("evaluate", 1, 0, 4096, 1024)
    assert follow.sentence(job("running", encode, evaluate)) == "evaluating, 1,024 of 4,096 tokens"
    assert follow.sentence(job("failed", encode, error="too short")) == "failed: too short"
    assert [follow.duration(s) for s in (5.2, 65, 7500)] == ["5 s", "1 min 5 s", "2 h 5 min"]


def test_names_follow_neuronpedia_s_rules() -> None:
    assert names.source_set_of("20-gemmascope-res-16k__l0-71") == "gemmascope-res-16k"
    assert names.default_source_id(2, "jumprelu512") == "2-jumprelu512"
    assert names.default_source_id(2, "2-res-2k") == "2-res-2k"
    assert names.default_source_id(2, "my sae (new)") == "2-my-sae-new"
    for bad in ("", "api", "a/b", "-x", "x" * 200):
        with pytest.raises(errors.InvalidInputError, match="cannot be the id"):
            names.check_id(bad, "model")
