"""The scripts of named leases do what their rule says; and the machine that drives both finds what is planted."""

from __future__ import annotations

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.named_leases_machine import drive, driving


def test_the_scripts_do_what_the_rule_says(own_redis_server: EmbeddedServer) -> None:
    with driving(own_redis_server.url):
        drive()


#: In a script: what is right, and what is not.
FAULTS = {
    "who came last is served first": (
        "redis.call('ZRANGE', work.line, 0, 0)[1]",
        "redis.call('ZRANGE', work.line, -1, -1)[1]",
    ),
    "a place is lost when it is asked for again": (
        "if not ticket then\n  ticket = {",
        "if true then\n  leave_line(work, token)\n  ticket = {",
    ),
    "the tenth place is before the second": ("'%015.0f '", "'%.0f              '"),
    "a permit too many": (
        "redis.call('HLEN', work.holders) < work.permits",
        "redis.call('HLEN', work.holders) <= work.permits",
    ),
    "tokens do not grow over a Redis that was emptied": ("math.max(work.fence + 1, now)", "work.fence + 1"),
    "a resource is lost": ("if work.kind == 'pool' then redis.call('RPUSH', work.free, holder.r) end", ""),
    "the dead wait on": (
        "return work.now <= ticket.w and runs(work, ticket.o, ticket.e)",
        "return work.now <= ticket.w",
    ),
    "the dead hold on": ("if holder and holder.o == owner then", "if false then"),
    "the attempt that has ended holds on": (
        "not has_entry(holder.o, holder.e) then return 'attempt ended'",
        "false then return ''",
    ),
    "a permit is released after its limit": ("if holder and is_past_limit(work, holder) then", "if false then"),
    "a term ends for another reason": ("'reason', reason)", "'reason', 'lost')"),
    "a term is handed over to the dead": (
        "ticket.o == candidate and still_waits(work, ticket)",
        "ticket.o == candidate",
    ),
    "what another has checked out is checked in": (
        "holder.r == resource and holder.o == owner and",
        "holder.r == resource and",
    ),
    "what is taken is there to be taken again": ("redis.call('DEL', root .. 'wake:' .. token)", ""),
    "an end is not told": (
        "emit_event('lease_ended', work.kind, work.name, holder.o,",
        "local _ = string.format('%s', ",
    ),
    "what is in use expires": ("  redis.call('PERSIST', work.state)\n", ""),
}


#: The properties that coordination promises; the others are for `make test-slow`.
PROMISED = 6


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[pytest.mark.slow] if at >= PROMISED else []) for at, fault in enumerate(FAULTS)],
)
def test_the_machine_finds_a_planted_fault_at_its_default(own_redis_server: EmbeddedServer, fault: str) -> None:
    with driving(own_redis_server.url, FAULTS[fault]), pytest.raises(AssertionError):
        drive(derandomize=True, report_multiple_bugs=False)
