"""The judge of lanes finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.judge_lanes import LanesVerdict, judge_lanes
from chaos.lanes import LANE
from chaos.witness import Row
from orchestrator.sending.ledger import LedgerRow

T = 1_000_000


def ran(
    delivery: str, begun_ms: int, ended_ms: int | None, *, pid: int = 7, tenant: str = "east", failed: bool = False
) -> list[Row]:
    note = {"tenant": tenant, "delivery": delivery, "run": 1}
    rows = [Row(T + begun_ms, "entered", pid=pid, parent_pid=1, note=note)]
    return rows if ended_ms is None else [*rows, Row(T + ended_ms, "left", pid=pid, note={**note, "failed": failed})]


def strike(at_ms: int, pid: int = 7, kind: str = "hard", **note: Any) -> Row:
    return Row(T + at_ms, "strike", pid=pid, note={"kind": kind, "pids": [pid], **note})


def verdict(*rows: list[Row] | Row, handled: int = 0) -> LanesVerdict:
    flat = [one for some in rows for one in (some if isinstance(some, list) else [some])]
    return judge_lanes(flat, [LedgerRow(LANE, handled=handled)])


TWO = [*ran("a", 0, 10), *ran("b", 5, 15, pid=8)]


def test_as_many_of_a_key_as_may_run_at_a_time_are_no_violation() -> None:
    assert verdict(TWO, ran("c", 10, 20), ran("d", 5, 15, tenant="west"), handled=4) == LanesVerdict(entered=4, most=2)


def test_one_more_of_a_key_is_found() -> None:
    (found,) = verdict(TWO, ran("c", 9, 20, pid=9)).violations
    assert found == "lanes: 3 messages of east ran at a time: a, b, c"


def test_those_that_take_no_time_are_counted_in_the_order_of_their_rows() -> None:
    assert verdict(ran("a", 0, 0), ran("b", 0, 0), ran("c", 0, 0)) == LanesVerdict(entered=3, most=1)
    at_once = [one for what in ("entered", "left") for name in "abc" for one in ran(name, 0, 0) if one.what == what]
    assert verdict(at_once).most == 3


def test_an_execution_is_over_when_its_process_is_killed() -> None:
    killed = ran("a", 0, None)
    again = [*ran("b", 1, 30, pid=8), *ran("a", 20, 30, pid=9)]
    frozen = strike(10, kind="freeze", for_s=12.0)
    for death in (strike(10), frozen, strike(25, killed_ms=T + 10), strike(10, pid=1), Row(T + 10, "fell", pid=7)):
        assert verdict(killed, death, again) == LanesVerdict(entered=3, most=2)
    poison = Row(T + 10, "start", pid=7, note={"poison": True})
    assert verdict(killed, poison, again).violations == ()


def test_what_begins_between_the_kill_and_the_end_of_its_process_is_over_as_it_begins() -> None:
    killed = Row(T + 25, "strike", pid=6, note={"kind": "supervisor", "pids": [7], "killed_ms": T + 10})
    said = verdict(ran("a", 12, None), killed, ran("b", 13, 30, pid=8), ran("c", 14, 30, pid=9))
    assert said == LanesVerdict(entered=3, most=2)


@pytest.mark.parametrize(("kind", "end"), [("cold", "ended"), ("freeze", "continued")])
def test_so_is_what_begins_after_a_strike_was_written_down_and_before_it_has_come(kind: str, end: str) -> None:
    struck = [strike(10, kind=kind), *ran("a", 11, None), Row(T + 14, end, pid=7)]
    again = [*ran("b", 12, 30, pid=8), *ran("c", 13, 30, pid=9)]
    assert verdict(struck, again) == LanesVerdict(entered=3, most=2)
    assert verdict(struck[1:], again).violations != ()


def test_what_a_frozen_process_goes_on_with_has_ended_for_all_others() -> None:
    frozen = [*ran("a", 0, 40), strike(10, kind="freeze"), Row(T + 30, "continued", pid=7)]
    others = [*ran("b", 12, 50, pid=8), *ran("c", 13, 50, pid=9)]
    assert verdict(frozen, others) == LanesVerdict(entered=3, most=2)


@pytest.mark.parametrize(
    "death",
    [strike(25), strike(10, pid=6), strike(10, kind="stop", for_s=2.0)],
    ids=["killed-too-late", "another-killed", "stopped-only"],
)
def test_a_message_that_another_one_overtakes_while_it_runs_is_found(death: Row) -> None:
    said = verdict(ran("a", 0, None), death, ran("b", 1, 30, pid=8), ran("c", 20, 24, pid=9))
    assert "lanes: 3 messages of east ran at a time: a, b, c" in said.violations


def test_an_execution_that_never_ends_is_found_unless_its_process_was_killed() -> None:
    (found,) = verdict(ran("a", 0, None)).violations
    assert found == "lanes: a has begun and never ended, and its process was not struck"
    assert verdict(ran("a", 0, None), strike(10)).violations == ()


def test_a_ledger_with_more_than_ran_to_their_end_is_found() -> None:
    assert verdict(ran("a", 0, 10), ran("a", 20, 30), handled=1).violations == ()
    for rows in (ran("a", 0, 10), [*ran("a", 0, 10), *ran("b", 20, 30, failed=True)]):
        (found,) = verdict(rows, handled=2).violations
        assert found == "lanes: the ledger says 2 handled, and 1 ran to their end"
