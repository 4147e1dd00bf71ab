"""Counts how many messages of a lane's key ran at a time, as the witness saw them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.lanes import LANE, LIMIT
from chaos.lives import died_ms
from chaos.witness import Row
from orchestrator.sending.ledger import LedgerRow

#: The rows that are read here.
ROWS = ("entered", "left")

#: From when to when processes, by pid, were being struck.
_Deaths = dict[int, list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class LanesVerdict:
    """The figures and the violations of lanes."""

    #: Executions, and how many of one key ran at a time at most.
    entered: int = 0
    most: int = 0
    violations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Execution:
    tenant: str
    delivery: str
    #: When, in ms, and the place of its row, which orders rows of one time.
    begun: tuple[int, int]
    #: When it was over, or its process was killed; ``None`` if neither is known.
    ended: tuple[int, int] | None
    is_done: bool


def judge_lanes(rows: Sequence[Row], ledger: Sequence[LedgerRow]) -> LanesVerdict:
    """The verdict on all executions; that no permit is left is a question of what is left in Redis."""
    executions = list(_executions(rows))
    violations = [
        f"lanes: {one.delivery} has begun and never ended, and its process was not struck"
        for one in executions
        if one.ended is None
    ]
    most = 0
    for tenant in {one.tenant for one in executions}:
        at_once, which = _most_at_once([one for one in executions if one.tenant == tenant])
        most = max(most, at_once)
        if at_once > LIMIT:
            violations.append(f"lanes: {at_once} messages of {tenant} ran at a time: {', '.join(which)}")
    handled = next((row.handled for row in ledger if row.queue == LANE), 0)
    done = len({one.delivery for one in executions if one.is_done})
    # Of one that had ended when its worker was killed, the outcome may not be recorded.
    if handled > done:
        violations.append(f"lanes: the ledger says {handled} handled, and {done} ran to their end")
    return LanesVerdict(len(executions), most, tuple(violations))


def _executions(rows: Sequence[Row]) -> Iterator[_Execution]:
    deaths, frozen = _deaths(rows)
    left = {_which(row): (place, row) for place, row in enumerate(rows) if row.what == "left"}
    for place, row in enumerate(rows):
        if row.what != "entered":
            continue
        ended, is_done = _over(row, deaths), False
        if _which(row) in left:
            end_place, end = left[_which(row)]
            ended, is_done = (end.at_ms, end_place), not end.note["failed"]
            if (lost := _over(row, frozen)) is not None:
                # It goes on with what others may have begun meanwhile.
                ended = min(ended, lost)
        yield _Execution(str(row.note["tenant"]), str(row.note["delivery"]), (row.at_ms, place), ended, is_done)


def _over(row: Row, deaths: _Deaths) -> tuple[int, int] | None:
    """When the first of these has put an end to an execution."""
    ends = [
        (max(from_ms, row.at_ms), -1)
        for pid in (row.pid, row.parent_pid)
        for from_ms, until_ms in deaths.get(pid, ())
        if until_ms >= row.at_ms
    ]
    return min(ends, default=None)


def _which(row: Row) -> tuple[int, str, int]:
    return row.pid, str(row.note["delivery"]), int(row.note["run"])


def _deaths(rows: Sequence[Row]) -> tuple[_Deaths, _Deaths]:
    """When processes were killed, frozen until they were declared dead, or asked to end: what they run may be over.

    From when to when: what they began meanwhile is over, too. The second ones are those that were frozen alone.
    """
    deaths: _Deaths = defaultdict(list)
    frozen: _Deaths = defaultdict(list)
    struck: dict[int, Row] = {}
    for row in rows:
        if row.what == "start" and row.note.get("poison"):
            deaths[row.pid].append((row.at_ms, row.at_ms))
        elif row.what == "fell" or (row.what == "strike" and row.note.get("kind") != "stop"):
            struck[row.pid] = row
            _add(deaths, row, row)
        elif row.what in ("ended", "continued") and row.pid in struck:
            # It was asked, or frozen, after that had been written down.
            strike = struck.pop(row.pid)
            _add(deaths, strike, row)
            if row.what == "continued":
                _add(frozen, strike, row)
    return deaths, frozen


def _add(deaths: _Deaths, strike: Row, until: Row) -> None:
    for pid in {strike.pid, *strike.note.get("pids", ())}:
        deaths[pid].append((died_ms(strike), until.at_ms))


def _most_at_once(executions: Sequence[_Execution]) -> tuple[int, list[str]]:
    """The most that ran at a time, and which."""
    changes = [(one.begun, True, one.delivery) for one in executions]
    changes += [(max(one.ended, one.begun), False, one.delivery) for one in executions if one.ended is not None]
    running: list[str] = []
    most: list[str] = []
    # Of one that was killed as it began, the beginning comes first.
    for _, has_begun, delivery in sorted(changes, key=lambda change: (change[0], not change[1])):
        if has_begun:
            running.append(delivery)
        else:
            running.remove(delivery)
        if len(running) > len(most):
            most = list(running)
    return len(most), most
