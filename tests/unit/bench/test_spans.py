"""Seconds from first blocks, and measured children."""

import os
import sys

import pytest

from tests.bench import spans
from tests.bench.spans import Seconds


def test_the_first_block_carries_what_comes_once() -> None:
    found = spans.estimate(Seconds(1, 0.5), [Seconds(60, 55), Seconds(10, 9), Seconds(12, 11)], n_blocks=32)
    assert found.per_block == Seconds(11, 10)
    assert found.fixed == Seconds(1 + 60 - 11, 0.5 + 55 - 10)
    assert found.total == Seconds(50 + 32 * 11, 45.5 + 32 * 10)
    assert (found.n_measured, found.n_blocks) == (3, 32)


def test_a_complete_run_is_its_own_sum() -> None:
    blocks = [Seconds(7, 6), Seconds(3, 2), Seconds(4, 3)]
    assert spans.estimate(Seconds(1, 1), blocks, n_blocks=3).total == Seconds(15, 12)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_blocks_that_cannot_be_extrapolated_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} blocks measured of 3"):
        spans.estimate(Seconds(0, 0), [Seconds(1, 1)] * n, n_blocks=3)


def test_a_child_gives_its_last_line_and_its_own_peak(tmp_path) -> None:
    code = "import time; x = bytearray(300_000_000); x[::4096] = x[::4096]; time.sleep(0.3); print('a'); print('last')"
    said, peak_bytes = spans.run([sys.executable, "-c", code], log=tmp_path / "log", environment=dict(os.environ))
    assert said == "last"
    assert 300e6 < peak_bytes < 400e6
    ballast = bytearray(500_000_000)
    ballast[::4096] = ballast[::4096]
    _, small = spans.run([sys.executable, "-c", "print(1)"], log=tmp_path / "log", environment=dict(os.environ))
    assert small < 100e6, "the parent's memory was counted"


def test_a_child_runs_on_one_thread(tmp_path) -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['NUMBA_NUM_THREADS'])"
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "8"}
    assert spans.run([sys.executable, "-c", code], log=tmp_path / "log", environment=environment)[0] == "1 1"


def test_a_child_that_fails_says_its_last_words(tmp_path) -> None:
    code = "import sys; print('{}'); sys.exit('no such thing')"
    with pytest.raises(spans.ChildError, match="ended with 1: no such thing"):
        spans.run([sys.executable, "-c", code], log=tmp_path / "log", environment=dict(os.environ))
