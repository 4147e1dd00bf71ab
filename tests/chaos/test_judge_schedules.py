"""The judge of schedules finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

from chaos.judge_schedules import ScheduleRecord, judge_schedules
from chaos.witness import Row
from orchestrator.core.schedules.state import Counts

RECORD = ScheduleRecord("s", 1000, 10_000, 15_000, Counts(fired=3, coalesced=1))
LEDGER = {"due": 4, "fired": 3, "coalesced": 1}


def tick(nominal_ms: int, delivery: str = "") -> Row:
    return Row(0, "tick", note={"schedule": "s", "nominal_ms": nominal_ms, "delivery": delivery or f"d{nominal_ms}"})


SEEN = [tick(11_000), tick(12_000), tick(14_000)]


def violations(rows: list[Row], record: ScheduleRecord = RECORD, ledger: dict[str, int] = LEDGER) -> str:
    return "; ".join(judge_schedules(rows, [record], ledger).violations)


def test_what_agrees_is_no_violation() -> None:
    assert violations(SEEN) == ""
    assert violations([*SEEN, tick(14_000)]) == "", "a repeated execution of the same delivery"


def test_a_time_under_two_ids_is_found() -> None:
    assert "under 2 ids" in violations([*SEEN, tick(14_000, "other")])


def test_a_fire_that_nobody_has_seen_and_one_that_the_ledger_does_not_know_are_found() -> None:
    assert "2 fires were seen" in violations(SEEN[:2])
    assert "4 fires were seen" in violations([*SEEN, tick(13_000)])


def test_a_time_that_is_not_the_schedules_own_is_found() -> None:
    assert "no times of its own" in violations([tick(11_000), tick(12_000), tick(13_500)])


def test_a_time_that_became_nothing_is_found() -> None:
    assert "5 times have passed" in violations(SEEN, replace(RECORD, next_ms=16_000))


def test_totals_that_differ_are_found() -> None:
    assert "the ledger says 2 fired" in violations(SEEN, ledger={**LEDGER, "fired": 2})
