"""When a worker sweeps out of turn."""

from __future__ import annotations

import pytest

from orchestrator.supervisor.reading.variables import BEAT_VARIABLE
from orchestrator.transport.liveness import fallback_sweeper
from orchestrator.transport.liveness.fallback_sweeper import FallbackSweeper
from orchestrator.transport.liveness.heartbeat import HeartbeatReply
from orchestrator.transport.liveness.lease import MISSED, PROVED, asks_for_sweep
from orchestrator.transport.liveness.sweep import SweepResult
from orchestrator.transport.options import Options


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Sweeper:
    """Notes when it was asked to sweep."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: list[float] = []

    def sweep(self, by: str) -> SweepResult:
        self.at.append(self._clock.now_s)
        return SweepResult(0, (), 0, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fallback_sweeper, "monotonic", clock)
    return clock


MANAGED = Options(managed=True, sweep_stale_s=3.0, sweep_gap_s=4.5)


def make(clock: Clock, options: Options = MANAGED, queue: str = "billing") -> tuple[FallbackSweeper, Sweeper]:
    sweeper = Sweeper(clock)
    return FallbackSweeper(sweeper, options, "w@h:1#1", {queue}), sweeper  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("since_ms", "missed", "sweeps"),
    [(300, True, 1), (300, False, 0), (2900, False, 0), (3100, False, 1), (-1, True, 1), (-1, False, 0)],
)
def test_it_sweeps_when_it_is_asked_to_or_nobody_has_swept(
    clock: Clock, since_ms: int, missed: bool, sweeps: int
) -> None:
    fallback_sweeper, sweeper = make(clock)
    fallback_sweeper.after_heartbeat(HeartbeatReply(since_ms, missed))
    assert len(sweeper.at) == sweeps


@pytest.mark.parametrize(
    ("since_ms", "found", "asks"),
    [
        (300, MISSED, True),
        (250, MISSED, False),
        (-1, MISSED, True),
        (300, 0, False),
        (-1, 0, False),
        (250, PROVED, True),
        (0, PROVED, True),
        (-1, PROVED, True),
    ],
)
def test_a_proof_is_swept_for_at_once_and_a_missed_heartbeat_not_too_often(
    since_ms: int, found: int, asks: bool
) -> None:
    assert asks_for_sweep(since_ms, found) is asks


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What it has logged itself; a test before may have had events logged, too."""
    return [record.getMessage() for record in caplog.records if record.name == fallback_sweeper.logger.name]


def test_sweeping_for_one_who_is_missed_is_not_standing_in(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    fallback_sweeper, sweeper = make(clock)
    fallback_sweeper.after_heartbeat(HeartbeatReply(500, True))
    clock.now_s += 1.5
    fallback_sweeper.after_heartbeat(HeartbeatReply(1500, False))
    assert sweeper.at == [100.0]
    assert _said(caplog) == []


def test_nothing_is_said_while_the_monitor_manager_may_be_starting(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fallback_sweeper, sweeper = make(clock)
    for _ in range(2):
        clock.now_s += 2.9
        fallback_sweeper.after_heartbeat(HeartbeatReply(60_000, False))
    assert sweeper.at == pytest.approx([102.9, 105.8]), "the first sweeps need not wait"
    assert _said(caplog) == []
    clock.now_s += 0.9
    fallback_sweeper.after_heartbeat(HeartbeatReply(901, False))
    assert "sweeps in place of the monitor manager" in caplog.text


def test_a_worker_that_serves_the_managers_mailbox_misses_the_beat_only(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fallback_sweeper, _ = make(clock, queue="monitor-manager")
    clock.now_s += 6.1
    fallback_sweeper.after_heartbeat(HeartbeatReply(60_000, False))
    (said,) = _said(caplog)
    assert said.startswith("no beat asks for sweeps, so incarnation w@h:1#1 sweeps by itself: ")
    assert said.endswith("; start a beat (celery -A APP beat)")


@pytest.mark.parametrize("queue", ["billing", "monitor-manager"])
def test_a_worker_of_a_tree_with_a_beat_waits_for_its_restart_before_it_warns(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    monkeypatch.setenv(BEAT_VARIABLE, "agents/beat")
    fallback_sweeper, sweeper = make(clock, queue=queue)
    clock.now_s += 10
    for _ in range(44):
        fallback_sweeper.after_heartbeat(HeartbeatReply(3100, False))
        clock.now_s += 1
    assert len(sweeper.at) == 44
    assert _said(caplog) == []
    for _ in range(3):
        fallback_sweeper.after_heartbeat(HeartbeatReply(3100, False))
        clock.now_s += 1
    (said,) = _said(caplog)
    assert "orchestrator tree why agents/beat" in said
    assert "celery -A APP beat" not in said


def test_a_beat_that_came_back_has_its_next_restart_waited_for_too(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BEAT_VARIABLE, "beat")
    fallback_sweeper, _ = make(clock)
    for _ in range(2):
        clock.now_s += 40
        for _ in range(30):
            fallback_sweeper.after_heartbeat(HeartbeatReply(3100, False))
            clock.now_s += 1
    assert _said(caplog) == []


def test_who_stands_in_does_not_take_its_own_sweep_for_somebody_elses(clock: Clock) -> None:
    fallback_sweeper, sweeper = make(clock)
    fallback_sweeper.after_heartbeat(HeartbeatReply(3100, False))
    clock.now_s += 0.5
    fallback_sweeper.after_heartbeat(HeartbeatReply(500, True))
    clock.now_s += 0.5
    fallback_sweeper.after_heartbeat(HeartbeatReply(500, False))
    clock.now_s += 0.5
    fallback_sweeper.after_heartbeat(HeartbeatReply(1000, False))
    assert sweeper.at == [100.0, 100.5, 101.5]
