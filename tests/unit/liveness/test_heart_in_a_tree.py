"""Whether the heart of a worker that has ended leaves the report to the supervisor of its tree, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.core.keys import Keys
from orchestrator.supervisor.reading.variables import TREE_VARIABLE
from orchestrator.transport.liveness import heart
from orchestrator.transport.liveness.heart import Heart, Orders
from orchestrator.transport.liveness.heart_link import HeartLink
from orchestrator.transport.options import Options

SUPERVISOR, INIT = 4711, 1

#: From the end of the worker until its messages run elsewhere, with default settings.
PROMISED_S = 2.0


class FakeClock:
    """A clock that only sleeping moves; what happens then."""

    def __init__(self) -> None:
        self.now = 0.0
        self.parent = INIT
        #: The supervisor ends at this time.
        self.ends_at = float("inf")
        self.reported_at: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.ends_at:
            self.parent = INIT

    def connection(self, _orders: Orders) -> SimpleNamespace:
        return SimpleNamespace(call=lambda *_: self.reported_at.append(self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(heart, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep))
    monkeypatch.setattr(heart, "Connection", clock.connection)
    monkeypatch.setattr(heart, "os", SimpleNamespace(getppid=lambda: clock.parent))
    return clock


@pytest.fixture
def report(clock: FakeClock) -> Callable[[int], float]:
    """Has the heart of a worker with this supervisor report its death; after how many seconds it has."""

    def report(supervisor: int) -> float:
        one = Heart(parent=7)
        texts: dict[str, Any] = dict.fromkeys(("name", "server", "oom", "oom_file"), "")
        lists: dict[str, Any] = {"address": [], "pulse": [], "death": ["EVAL"], "auth": []}
        one._orders = Orders(
            parent=7, late_s=0.75, lease_s=10.0, reason_at=0, database=0, supervisor=supervisor, **texts, **lists
        )
        one._report_death()
        (reported_at,) = clock.reported_at
        return reported_at

    return report


def test_without_a_supervisor_it_reports_at_once(report: Callable[[int], float]) -> None:
    assert report(-1) == heart._FINAL_WRITES_S


def test_a_supervisor_that_lives_has_time_for_its_own_report(clock: FakeClock, report: Callable[[int], float]) -> None:
    clock.parent = SUPERVISOR
    reported_at = report(SUPERVISOR)

    assert reported_at >= heart._FINAL_WRITES_S + heart._SUPERVISOR_S
    # A heartbeat of any worker requeues the messages.
    assert reported_at + Options().heartbeat_s < PROMISED_S


def test_a_supervisor_that_has_ended_is_not_waited_for(clock: FakeClock, report: Callable[[int], float]) -> None:
    assert report(SUPERVISOR) == heart._FINAL_WRITES_S


def test_a_supervisor_that_ends_meanwhile_is_not_waited_for_any_longer(
    clock: FakeClock, report: Callable[[int], float]
) -> None:
    clock.parent, clock.ends_at = SUPERVISOR, 0.5

    assert 0.5 <= report(SUPERVISOR) < heart._SUPERVISOR_S


@pytest.mark.parametrize(("tree", "supervisor"), [("/run/tree", os.getppid()), ("", -1), (None, -1)])
def test_a_worker_names_its_parent_if_that_is_a_supervisor(
    monkeypatch: pytest.MonkeyPatch, tree: str | None, supervisor: int
) -> None:
    if tree is None:
        monkeypatch.delenv(TREE_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(TREE_VARIABLE, tree)
    sock = SimpleNamespace(getpeername=lambda: ("127.0.0.1", 6379))
    connection = SimpleNamespace(db=0, _sock=sock, credential_provider=None, username=None, password=None)
    link = HeartLink(Keys("orc"), Options(), "w@host:1#1", None)

    assert link._orders_for(connection, "w@host:1#1", "").supervisor == supervisor
