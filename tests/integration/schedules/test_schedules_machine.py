"""Schedulers do what their machine says, in any order; and it finds what is planted in their scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.driven_machine import drive_machine
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.redis_clock import KEY, clock_in_a_key
from tests.support.schedules_machine import SCHEDULERS, Machine
from tests.support.schedules_under_test import Schedules, scheduling_app


@pytest.fixture
def machine(own_redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Machine]]:
    """The machine over a Redis of its own, with scripts that read the time from a key."""
    over = Schedules(scheduling_app(own_redis_server.url))

    class Over(Machine):
        schedules = over
        firing = {name: over.scheduler(name)._firing for name in SCHEDULERS}  # noqa: RUF012

    monkeypatch.setattr(over.orchestrator.runtime.redis.schedules, "now_ms", lambda: int(Over.schedules.redis.get(KEY)))
    with clock_in_a_key():
        yield Over
    over.app.close()


def test_any_order_of_schedulers_edits_and_losses(machine: type[Machine]) -> None:
    drive_machine(machine, "SCHEDULE_EXAMPLES", examples=25)


#: In a script: what is right, and what is not.
FAULTS = {
    "a time is fired by each that has decided": Fault(
        "if f[1] ~= rev or (f[2] or '') ~= expected or (f[3] or '') ~= running then return 'stale' end", ""
    ),
    "what is not due is fired": Fault("if tonumber(was_due) > now then return 'early' end", ""),
    "a failure pauses nothing": Fault("if pauses == '1' and ended ~= 'handled' then", "if false then"),
    "what was decided before an edit is fired": Fault(
        "  now_rev = redis.call('HINCRBY', state, 'r', 1)\n  if f[2]",
        "  now_rev = redis.call('HINCRBY', state, 'r', before and 0 or 1)\n  if f[2]",
    ),
    "a fire's message is lost": Fault("redis.call('XADD', mailbox.stream, '*', 'm', message)", ""),
    "what was decided before a pause is fired": Fault(
        "local now_rev = redis.call('HINCRBY', state, 'r', 1)",
        "local now_rev = redis.call('HINCRBY', state, 'r', 0)",
    ),
    "what waits is never fired": Fault("redis.call('ZADD', schedules.due_set(root, f[4]), now_ms(), id)", ""),
    "what waited for a failure is not counted": Fault(
        "schedules.drop_buffered(root, state, id, totals, schedules.HISTORY,",
        "local _ = (",
    ),
    "a state outlives its schedule": Fault("redis.call('DEL', state)\nend", "end"),
    "what was fired is due again a day late": Fault(
        "else redis.call('ZADD', due_set, due, id) end",
        "else redis.call('ZADD', due_set, due + 86400000, id) end",
    ),
    "what a failure has paused is due": Fault(
        "  redis.call('ZREM', root .. 'schedules:due', id)\n  redis.call('ZREM', root .. 'schedules:bound', id)\nend",
        "end",
    ),
    "nothing is in the history": Fault("'XADD', 'MAXLEN', '~', most, '*', unpack(entry))", "'XLEN')"),
    "a full mailbox loses the fire": Fault("if why then\n      if waits", "if false then\n      if waits"),
    "what a full mailbox refused waits for its outcome": Fault(
        "redis.call('HDEL', root .. 'hooks:' .. delivery, 'schedule', 'pauses')",
        "local _ = 1",
    ),
    "what was accepted is not counted": Fault(
        "add_count_afterwards(root .. 'ledger:' .. queue, 'accepted',",
        "local _ = (",
    ),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=2))
def test_the_machine_finds_a_planted_fault(machine: type[Machine], fault: str) -> None:
    assert_finds(machine, FAULTS[fault], examples=100)
