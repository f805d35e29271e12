"""`eyepiece compute`: no servers, one JSON line, and Neuronpedia's files on request."""

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.formats import dashboards, quality
from tests import tiny


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "backend.cli.main", "compute", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(path, "rt")]


def test_it_prints_seconds_and_writes_dashboards_and_an_export(tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "tiny"), tiny.save_sae(tmp_path / "sae")
    (tmp_path / "text.txt").write_text(tiny.text(100))
    out = tmp_path / "out"
    done = run(
        "--model", model, "--sae", sae, "--corpus", tmp_path / "text.txt", "--out", out, "--export", "neuronpedia"
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["n_features"] == 40
    stages = {"import", "prepare", "encode", "finish", "evaluate", "write", "export"}
    assert set(line["wall_s"]) == set(line["cpu_s"]) == stages
    counted = sum(line["cpu_s"][stage] for stage in stages - {"import", "evaluate", "export"})
    assert abs(line["compute_cpu_s"] - counted) < 0.01

    offsets, blob = np.load(out / "offsets.npy"), (out / "dashboards.bin").read_bytes()
    found = [dashboards.unpack(blob[a:b]) for a, b in itertools.pairwise(offsets)]
    activations = sum(d.moments.mean * d.n_firings for d in found if d.n_firings)
    assert line["mean_l1"] == pytest.approx(activations / line["n_tokens"], rel=1e-3)
    assert line["n_dense"] == sum(d.n_firings > line["n_tokens"] / 10 for d in found) > 0

    measured = quality.from_json(json.loads((out / "quality.json").read_text()))
    assert measured.corpus.n_tokens == line["n_tokens"], "the sample is the whole corpus here"
    assert measured.corpus.metrics["l0"].value == pytest.approx(line["mean_l0"], rel=1e-4)
    assert measured.corpus.metrics["l1"].value == pytest.approx(line["mean_l1"], rel=1e-4)
    assert line["quality"]["corpus"]["kl_sae"]["value"] == measured.corpus.metrics["kl_sae"].value
    assert line["quality"]["notes"] == list(measured.notes)

    features = lines(out / "export" / "features" / "batch-0.jsonl.gz")
    activations = lines(out / "export" / "activations" / "batch-0.jsonl.gz")
    assert line["n_alive"] == sum(d.n_firings > 0 for d in found) > 5
    assert [row["index"] for row in features] == [str(d.index) for d in found]
    assert [np.float32(row["maxActApprox"]) for row in features] == [np.float32(d.max) for d in found]
    assert len(activations) == sum(len(d.examples.group) for d in found)
    for row in activations:
        assert len(row["tokens"]) == len(row["values"]) == tiny.N_CONTEXT - 1
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
        assert row["binMin"] == -1 or row["binMin"] < row["maxValue"] <= row["binMax"] * (1 + 1e-6)
    source = json.loads((out / "export" / "source.jsonl").read_text())
    assert (source["modelId"], source["id"], source["setName"]) == ("tiny", "1-sae", "sae")


def test_quality_reaches_beyond_the_trained_context_and_can_be_left_out(tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "tiny"), tiny.save_sae(tmp_path / "sae", metadata={"context_size": 8})
    (tmp_path / "text.txt").write_text(tiny.text(100))
    given = ("--model", model, "--sae", sae, "--corpus", tmp_path / "text.txt", "--out", tmp_path / "out")
    done = run(*given)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["quality"]
    assert (found["corpus"]["context_size"], found["longer"]["context_size"]) == (8, 32)
    without = run(*given, "--quality-tokens", "0")
    assert without.returncode == 0, without.stderr
    assert "quality" not in json.loads(without.stdout)


def test_token_rows_give_what_their_text_gives(tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "tiny"), tiny.save_sae(tmp_path / "sae", architecture="topk")
    (tmp_path / "text.txt").write_text(tiny.text(60))
    first = run("--model", model, "--sae", sae, "--corpus", tmp_path / "text.txt", "--out", tmp_path / "a")
    assert first.returncode == 0, first.stderr
    second = run("--model", model, "--sae", sae, "--tokens", tmp_path / "a" / "contexts.npy", "--out", tmp_path / "b")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "a" / "dashboards.bin").read_bytes() == (tmp_path / "b" / "dashboards.bin").read_bytes()


def test_what_the_files_do_not_say_can_be_declared(tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "tiny"), tiny.save_sae(tmp_path / "sae")
    config = json.loads((sae / "cfg.json").read_text())
    (sae / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "expected_average_only_in"}))
    (tmp_path / "text.txt").write_text(tiny.text(40))
    given = ("--model", model, "--sae", sae, "--corpus", tmp_path / "text.txt", "--quality-tokens", "0")
    refused = run(*given, "--out", tmp_path / "refused")
    assert (refused.returncode, "Declare norm_scaling_factor" in refused.stderr) == (1, True), refused.stderr
    l1 = []
    for factor in (1.0, 2.0):
        declared = json.dumps({"norm_scaling_factor": factor})
        done = run(*given, "--out", tmp_path / str(factor), "--declare", declared)
        assert done.returncode == 0, done.stderr
        l1.append(json.loads(done.stdout)["mean_l1"])
    assert l1[0] != l1[1], "it is computed with"


def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "tiny"), tiny.save_sae(tmp_path / "sae", d_in=17)
    (tmp_path / "text.txt").write_text(tiny.text(5))
    for arguments, says in (
        (("--corpus", tmp_path / "text.txt"), "has width 16; the SAE reads 17"),
        ((), "either --corpus or --tokens"),
        (("--corpus", tmp_path / "text.txt", "--dtype", "int3"), "dtype 'int3' is unknown"),
    ):
        done = run("--model", model, "--sae", sae, "--out", tmp_path / "o", *arguments)
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "o").exists()
