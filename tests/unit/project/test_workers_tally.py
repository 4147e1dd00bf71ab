"""How the demo's numbers are counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.deadletters.letter import DeadLetter
from orchestrator.registry.registry import Death
from orchestrator.sending.ledger import LedgerRow
from workers.auditors import Summary
from workers.chaos import Kill, recovery
from workers.records import Start
from workers.tally import Tally, tally

LEDGER = LedgerRow("auditor", accepted=5, handled=4, dead=1)
SUMMARY = Summary(files=2, found=())
LETTER = DeadLetter(id="1-0", raw=b"", queue="auditor", reason="retries exhausted")
KILL = Kill(name="auditor1", pid=10, incarnation="auditor1@host:10#1", at_ms=1000, held=frozenset({"d1", "d2"}))


def started(at_ms: int, delivery: str, *, attempt: int = 1, worker_pid: int = 20) -> Start:
    return Start(at_ms, delivery, attempt, "auditor@host", worker_pid + 1, worker_pid)


def counted(
    *,
    ledger: LedgerRow = LEDGER,
    summary: Summary = SUMMARY,
    letters: Sequence[DeadLetter] = (LETTER,),
    deaths: Iterable[Death] = (),
    starts: Sequence[Start] = (),
    kill: Kill | None = None,
) -> Tally:
    return tally(ledger, summary, letters, deaths, starts, kill)


def test_the_last_line() -> None:
    starts = [started(900, "d1", worker_pid=10), started(1500, "d1"), started(1750, "d2"), started(1800, "d3")]
    deaths = [Death(KILL.incarnation, "killed", "monitor-manager", 1400)]
    assert counted(starts=starts, deaths=deaths, kill=KILL).last_line == (
        "demo: accepted=5 handled=4 dead=1 pending=0 lost=0 duplicated=1 kills=1 recovered_s=0.75"
    )


def test_without_a_kill_there_is_nothing_to_recover() -> None:
    assert counted().last_line.endswith("kills=0 recovered_s=0.00")


@pytest.mark.parametrize(
    ("change", "balanced"),
    [
        ({}, True),
        ({"handled": 3}, False),
        ({"handled": 3, "ready": 1}, False),
        ({"handled": 3, "expired": 1}, False),
        ({"handled": 3, "cancelled": 1}, False),
        ({"handled": 5}, False),
        ({"accepted": 6, "handled": 5}, False),
        ({"accepted": 6, "dead": 2}, False),
    ],
    ids=str,
)
def test_it_balances_only_if_each_message_was_handled_or_is_a_dead_letter(
    change: dict[str, Any], balanced: bool
) -> None:
    assert counted(ledger=replace(LEDGER, **change)).balanced is balanced


def test_a_dead_letter_that_cannot_be_found_is_no_dead_letter() -> None:
    assert not counted(letters=()).balanced


def test_a_retry_is_no_duplicate_and_a_second_execution_of_one_attempt_is() -> None:
    assert counted(starts=[started(1, "d1"), started(2, "d1", attempt=2)]).duplicated == 0
    assert counted(starts=[started(1, "d1"), started(2, "d1"), started(3, "d1")]).duplicated == 2


def test_a_worker_that_ended_in_good_order_was_not_killed() -> None:
    deaths = [Death("w1#1", "drained", "w1#1", 5), Death("w2#2", "killed", "manager", 6), Death("w3#3", "lost", "m", 7)]
    assert counted(deaths=deaths).kills == 2


def test_a_death_of_a_whole_worker_is_not_counted_once_more_for_the_message_it_is_blamed_on() -> None:
    by = KILL.incarnation
    letter = replace(LETTER, deaths=({"by": by, "at": 900}, {"by": "w2#2", "at": 950}, {"by": by, "at": 1400}))
    result = counted(letters=[letter], deaths=[Death(by, "killed", "monitor-manager", 1400)])
    assert (result.workers_killed, result.pool_kills, result.kills) == (1, 2, 3)


def test_recovery_is_the_latest_first_start_elsewhere() -> None:
    starts = [
        started(990, "d1", worker_pid=10),
        # On its way when the worker died.
        started(1001, "d2", worker_pid=10),
        started(1500, "d1"),
        started(1600, "d2"),
        started(1700, "not held"),
        started(9000, "d1"),
    ]
    found = recovery(KILL, starts)
    assert (found.messages, found.initial_s, found.last_s) == (2, 0.5, 0.6)


def test_what_the_killed_had_finished_needs_no_recovery() -> None:
    assert recovery(KILL, [started(990, "d1", worker_pid=10)]).messages == 0
