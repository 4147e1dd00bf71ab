"""What the end of a pool process, as Celery reports it, says of the message that it ran."""

from __future__ import annotations

import pytest
from celery.exceptions import WorkerLostError

from orchestrator.transport.liveness.child_exit import ChildEnd, end_of
from orchestrator.transport.options import Options

LOST = "Worker exited prematurely: {} Job: 15."


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("signal 15 (SIGTERM)", ChildEnd.STOP_SIGNAL),
        ("signal 2 (SIGINT)", ChildEnd.STOP_SIGNAL),
        ("signal 1 (SIGHUP)", ChildEnd.STOP_SIGNAL),
        ("signal 3 (SIGQUIT)", ChildEnd.STOP_SIGNAL),
        ("exitcode 15", ChildEnd.STOP_SIGNAL),
        ("exitcode 70", ChildEnd.STOP_SIGNAL),
        ("exitcode 0", ChildEnd.DIED),
        ("exitcode 1", ChildEnd.DIED),
        ("signal 9 (SIGKILL)", ChildEnd.DIED),
        ("signal 11 (SIGSEGV)", ChildEnd.DIED),
        ("signal 150", ChildEnd.DIED),
    ],
)
def test_the_end_of_a_pool_process_is_classified(how: str, end: ChildEnd) -> None:
    error = WorkerLostError(LOST.format(how))
    assert end_of(error, stopping=False) is end
    assert end_of(error, stopping=True) is ChildEnd.STOPPING


def test_a_task_that_leaves_the_interpreter_has_died_of_itself() -> None:
    assert end_of(SystemExit(15), stopping=False) is ChildEnd.EXITED
    assert end_of(WorkerLostError(repr(SystemExit(15))), stopping=False) is ChildEnd.EXITED, "as a solo pool says it"
    assert end_of(SystemExit(15), stopping=True) is ChildEnd.STOPPING


@pytest.mark.parametrize(
    ("round_trip_ms", "has_heart", "after_ms"),
    [
        (1, False, 800),
        (1, True, 1100),
        (64, False, 984),
        (64, True, 1100),
        (128, True, 1368),
        (256, True, 1900),
        (4096, True, 1900),
        (4096, False, 2600),
    ],
)
def test_a_closed_connection_is_a_death_later_the_slower_the_round_trips_were(
    round_trip_ms: int, has_heart: bool, after_ms: int
) -> None:
    assert Options().closed_after_ms(round_trip_ms, has_heart=has_heart) == after_ms


def test_a_closed_connection_is_a_death_after_a_lease_at_the_latest() -> None:
    assert Options(lease_s=0.7).closed_after_ms(4096, has_heart=True) == 700
