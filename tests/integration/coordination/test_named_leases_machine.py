"""The scripts of named leases do what their rule says; and the machine that drives both finds what is planted."""

from __future__ import annotations

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.driven_machine import drive_machine
from tests.support.named_leases_machine import Machine, driving
from tests.support.planted_faults import Fault, assert_finds, cases


def test_the_scripts_do_what_the_rule_says(own_redis_server: EmbeddedServer) -> None:
    with driving(own_redis_server.url):
        drive_machine(Machine, "LEASE_EXAMPLES", steps=60)


#: In a script: what is right, and what is not.
FAULTS = {
    "who came last is served first": Fault(
        "redis.call('ZRANGE', work.line, 0, 0)[1]",
        "redis.call('ZRANGE', work.line, -1, -1)[1]",
    ),
    "a place is lost when it is asked for again": Fault(
        "if not ticket then\n  ticket = {",
        "if true then\n  leave_line(work, token)\n  ticket = {",
    ),
    "the tenth place is before the second": Fault("'%015.0f '", "'%.0f              '"),
    "a permit too many": Fault(
        "redis.call('HLEN', work.holders) < work.permits",
        "redis.call('HLEN', work.holders) <= work.permits",
    ),
    "tokens do not grow over a Redis that was emptied": Fault("math.max(work.fence + 1, now)", "work.fence + 1"),
    "a resource is lost": Fault("if work.kind == 'pool' then redis.call('RPUSH', work.free, holder.r) end", ""),
    "the dead wait on": Fault(
        "return work.now <= ticket.w and runs(work, ticket.o, ticket.e)",
        "return work.now <= ticket.w",
    ),
    "the dead hold on": Fault("if holder and holder.o == owner then", "if false then"),
    "the attempt that has ended holds on": Fault(
        "not has_entry(holder.o, holder.e) then return 'attempt ended'",
        "false then return ''",
    ),
    "a permit is released after its limit": Fault("if holder and is_past_limit(work, holder) then", "if false then"),
    "a release whose answer was lost finds nothing held": Fault("recorded_answer(publishes, call) or ''", "''"),
    "one answer is kept of all callers": Fault("publishes, token:sub(1, 16)", "publishes, 'last'"),
    "a check-in whose answer was lost is refused": Fault("if answered then return answered end", ""),
    "a term ends for another reason": Fault("'reason', reason)", "'reason', 'lost')"),
    "a term is handed over to the dead": Fault(
        "ticket.o == candidate and still_waits(work, ticket)",
        "ticket.o == candidate",
    ),
    "what another has checked out is checked in": Fault(
        "holder.r == resource and holder.o == owner and",
        "holder.r == resource and",
    ),
    "what is taken is there to be taken again": Fault("redis.call('DEL', root .. 'wake:' .. token)", ""),
    "an end is not told": Fault(
        "emit_event('lease_ended', work.kind, work.name, holder.o,",
        "local _ = string.format('%s', ",
    ),
    "what is in use expires": Fault("  redis.call('PERSIST', work.state)\n", ""),
}


#: The properties that coordination promises; the others are for `make test-slow`.
PROMISED = 6


@pytest.mark.parametrize("fault", cases(FAULTS, PROMISED))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    with driving(own_redis_server.url):
        assert_finds(Machine, FAULTS[fault], examples=150, steps=60)
