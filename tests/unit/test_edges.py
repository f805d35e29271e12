"""Small pieces at the edges: queue addresses, blobs, progress in words, names."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend import broker, errors, names, storage, weights
from backend.cli import follow
from backend.services.progress import JobSourceView, JobView, StageView
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


@pytest.mark.parametrize("url", ["", "memory://test-keys"])
def test_blobs_are_listed_and_deleted_by_key(tmp_path: Path, url: str) -> None:
    store = storage.store(Settings(data=tmp_path / "data", blob_url=url))
    for key in ("indexes/3/7/b", "indexes/3/7/a", "indexes/30/1/a"):
        file = tmp_path / "file"
        file.write_bytes(b"bytes")
        store.put(key, file)
    assert store.keys("indexes/3") == ["indexes/3/7/a", "indexes/3/7/b"]
    assert store.keys("indexes/4") == []
    store.delete("indexes/3/7/a")
    store.delete("indexes/3/7/a")
    assert store.keys("indexes") == ["indexes/3/7/b", "indexes/30/1/a"]


def test_a_mirror_of_a_folder_is_the_folder(tmp_path: Path) -> None:
    mirror = storage.mirror(Settings(data=tmp_path / "data"))
    (tmp_path / "file").write_bytes(b"bytes")
    mirror.store.put("a/b", tmp_path / "file")
    assert mirror.path("a/b") == tmp_path / "data" / "blobs" / "a" / "b"
    with pytest.raises(FileNotFoundError):
        mirror.path("a/c")


def test_a_mirror_of_a_remote_store_keeps_what_was_used_last(tmp_path: Path) -> None:
    mirror = storage.mirror(Settings(data=tmp_path / "data", blob_url="memory://test-mirror", cache_gb=25e-9))
    for name in "abc":
        (tmp_path / "file").write_bytes(name.encode() * 10)
        mirror.store.put(f"x/{name}", tmp_path / "file")
    assert mirror.path("x/a").read_bytes() == b"a" * 10
    os.utime(mirror.path("x/b"), (1, 1))
    os.utime(mirror.folder / "x" / "a", (2, 2))
    used = mirror.path("x/b").stat()
    assert (used.st_atime > 2, used.st_mtime) == (True, 1), "asked for again: used last, and the same as before"
    assert mirror.path("x/c").read_bytes() == b"c" * 10
    assert sorted(file.name for file in (mirror.folder / "x").iterdir()) == ["b", "c"]
    assert mirror.path("x/a").read_bytes() == b"a" * 10, "fetched anew"
    with pytest.raises(FileNotFoundError):
        mirror.path("x/none")
    assert not list(mirror.folder.rglob("*.partial"))


def test_weights_of_the_store_are_a_folder_of_this_machine(tmp_path: Path) -> None:
    """One file more than fits: what is asked for together stays together."""
    for url in ("", "memory://test-weights"):
        mirror = storage.mirror(Settings(data=tmp_path / "data", blob_url=url, cache_gb=5e-9))
        for name in ("other/z", "saes/1/x/cfg.json", "saes/1/x/w", "saes/10/x/w"):
            (tmp_path / "file").write_bytes(name.encode())
            mirror.store.put(name, tmp_path / "file")
        assert mirror.path("other/z").is_file()
        folder = weights.folder_of(weights.of_key("saes/1/x"), mirror)
        assert {file.name: file.read_text() for file in folder.iterdir()} == {
            "cfg.json": "saes/1/x/cfg.json", "w": "saes/1/x/w",
        }  # fmt: skip
        assert (mirror.folder / "other" / "z").exists() is False
        written = (folder / "w").stat().st_mtime_ns
        assert weights.folder_of("blob:saes/1/x", mirror) == folder
        assert (folder / "w").stat().st_mtime_ns == written
        with pytest.raises(errors.InvalidInputError, match="Upload them again"):
            weights.folder_of("blob:saes/2", mirror)
    assert weights.folder_of("/a/folder", mirror) == Path("/a/folder")
    assert weights.key_of("/a/folder") is None


def job(state: str = "running", *stages: StageView, **rest: object) -> JobView:
    given = {"tokens_per_s": None, "seconds_left": None, "error": None} | rest
    stage = stages[-1].name if stages else "prepare"
    times = {"created_at": datetime.now(UTC), "started_at": None, "finished_at": None}
    return JobView(1, "m", (JobSourceView("s", 8, 0, is_published=False),), state, stage, stages, 0.5, **given, **times)


def test_a_job_says_what_it_is_doing() -> None:
    encode = StageView("encode", "tokens", 7, 3, 1, 700, 300)
    assert follow.sentence(job("running", encode, tokens_per_s=12345.6, seconds_left=200.0)) == (
        "encoding, 3 of 7 shards, 12,346 tokens/s, 3 min 20 s left"
    )
    assert (
        follow.sentence(job("running", StageView("finish", "features", 1, 0, 1, 2048, 512)))
        == "finishing, 512 of 2,048 features"
    )
    evaluate = StageView("evaluate", "tokens", 1, 0, 1, 4096, 1024)
    assert follow.sentence(job("running", encode, evaluate)) == "evaluating, 1,024 of 4,096 tokens"
    assert follow.sentence(job("failed", encode, error="too short")) == "failed: too short"
    assert [follow.duration(s) for s in (5.2, 65, 7500)] == ["5 s", "1 min 5 s", "2 h 5 min"]


def test_names_follow_neuronpedia_s_rules() -> None:
    assert names.source_set_of("20-gemmascope-res-16k__l0-71") == "gemmascope-res-16k"
    assert names.default_source_id(2, "jumprelu512") == "2-jumprelu512"
    assert names.default_source_id(2, "2-res-2k") == "2-res-2k"
    assert names.default_source_id(2, "my sae (new)") == "2-my-sae-new"
    for bad in ("", "api", "steer", "search", "a/b", "-x", "x" * 200):
        for what in ("model", "source"):  # pages lie below a model as sources do
            with pytest.raises(errors.InvalidInputError, match="cannot be the id"):
                names.check_id(bad, what)
