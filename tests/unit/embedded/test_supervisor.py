"""Restarts: soon at first, later each time, and an end to it."""

from pathlib import Path

import pytest

from backend.embedded.supervisor import MAX_DEATHS, Supervisor
from backend.errors import UnavailableError


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Fragile:
    """A member that runs until it is broken."""

    name = "worker"

    def __init__(self, log: Path) -> None:
        self.log = log
        self.n_starts = 0
        self.status: int | None = None

    def start(self) -> None:
        self.n_starts += 1
        self.status = None

    def poll(self) -> int | None:
        return self.status

    def stop(self) -> None:
        self.status = 0

    def failure(self, what: str) -> UnavailableError:
        return UnavailableError(f"The worker {what}: no.")


@pytest.fixture
def member(tmp_path: Path) -> Fragile:
    return Fragile(tmp_path / "worker.log")


def test_member_that_runs_is_left_alone(member: Fragile) -> None:
    supervisor = Supervisor([member], report=pytest.fail)
    supervisor.check()
    assert member.n_starts == 0


def test_dead_member_is_reported_and_started_after_a_delay_that_doubles(member: Fragile) -> None:
    clock, said = Clock(), []
    supervisor = Supervisor([member], report=said.append, clock=clock)
    for n_deaths, delay_s in ((1, 0.25), (2, 0.5), (3, 1.0)):
        member.status = -9
        supervisor.check()
        clock.now_s += delay_s - 0.01
        supervisor.check()
        assert member.n_starts == n_deaths - 1
        clock.now_s += 0.02
        supervisor.check()
        assert member.n_starts == n_deaths
    assert len(said) == 3
    assert "worker stopped (killed by signal 9)" in said[0]


def test_dying_too_often_ends_everything_and_names_the_log(member: Fragile) -> None:
    clock = Clock()
    supervisor = Supervisor([member], report=lambda line: None, clock=clock)
    for _ in range(MAX_DEATHS):
        member.status = 1
        supervisor.check()
        clock.now_s += 9
        supervisor.check()
    member.status = 1
    with pytest.raises(UnavailableError, match=r"The worker stopped 6 times within a minute: no\."):
        supervisor.check()


def test_old_deaths_are_forgiven(member: Fragile) -> None:
    clock = Clock()
    supervisor = Supervisor([member], report=lambda line: None, clock=clock)
    for _ in range(3 * MAX_DEATHS):
        member.status = 1
        supervisor.check()
        clock.now_s += 15
        supervisor.check()
    assert member.n_starts == 3 * MAX_DEATHS


def test_one_members_deaths_do_not_count_for_another(tmp_path: Path, member: Fragile) -> None:
    other = Fragile(tmp_path / "other.log")
    clock = Clock()
    supervisor = Supervisor([member, other], report=lambda line: None, clock=clock)
    for dying in (member, other) * 4:
        dying.status = 1
        supervisor.check()
        clock.now_s += 5
        supervisor.check()
    assert (member.n_starts, other.n_starts) == (4, 4)


def test_watch_checks_until_it_must_give_up(member: Fragile, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.now_s += 5
        member.status = 1

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(UnavailableError, match="6 times"):
        Supervisor([member], report=lambda line: None, clock=clock).watch()
