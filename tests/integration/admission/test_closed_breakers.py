"""A closed breaker costs a message almost nothing: the scripts that accept do not come to the admission."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Breaker, Mailbox
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.keys import GROUP, Keys, levels_of
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.admission.flow_control import breaker_fields
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import AskTexts, Attempt, Call
from orchestrator.transport.redis.scripts import command, resolve, source
from tests.support.emptied_redis import empty
from tests.support.patient_redis import patient_redis

KEYS, QUEUE, LEVEL = Keys(), "billing", "0"
LEVELS = levels_of((0, 3, 6, 9))
ATTEMPT = Attempt(KEYS.last_publishes(1), "0123456789abcdef:1")
FIELDS = {"group": GROUP, "timeout_ms": 1000, "outcome_ms": 1000}

FLOWS = {
    "closed": Flow(breaker=Breaker(failures=1)),
    "rates": Flow(breaker=Breaker(failure_rate=0.5, least=20, callers=2)),
    "open": Flow(breaker=Breaker(failures=1)),
    "bounded": Flow(mailbox=Mailbox(limit=5), breaker=Breaker(failures=1)),
    "none": Flow(),
}

CALLS: dict[str, Call] = {
    "publish": commands.publish(KEYS.stream(QUEUE, LEVEL), KEYS.ledger(QUEUE), ["m"], attempt=ATTEMPT),
    "request": commands.request(KEYS, QUEUE, LEVEL, "m", "host", attempt=ATTEMPT),
    "delay": commands.delay(KEYS, QUEUE, "0|m", "m", 1000, attempt=ATTEMPT),
    "accept": commands.accept(
        KEYS, QUEUE, LEVEL, "m", idempotency_key="orc:idempotency:x", delivery="d", member="0|d", ttl_ms=1000,
        pending_ms=1000, attempt=ATTEMPT,
    ),
    "ask": commands.ask(KEYS, QUEUE, LEVEL, "m", delivery="d", ask_id="d", fields=FIELDS, attempt=ATTEMPT),
    "ask_many": commands.ask_many(
        KEYS, QUEUE, LEVEL, [AskTexts("d", "m", "", "")], fields=FIELDS, timeout_ms=1000, attempt=ATTEMPT
    ),
}  # fmt: skip


class Mailboxes:
    """A mailbox, and the scripts that accept messages into it."""

    def __init__(self, url: str) -> None:
        self.redis: Any = patient_redis(url)
        self.redis.zadd(KEYS.leases, {"host": 1})

    def declare(self, flow: Flow, phase: str) -> None:
        fields: dict[str, Any] = {"root": KEYS.root, "queue": QUEUE, "levels": " ".join(LEVELS), "group": GROUP}
        fields |= {"outcome_ttl_ms": 1000}
        if flow.mailbox is not None:
            fields |= {"limit": flow.mailbox.limit, "overflow": "refuse", "block_ms": 0, "warn_from": 4}
        if flow.breaker is not None:
            fields |= breaker_fields(flow.breaker)
        has_bound, has_breaker = flow.mailbox is not None, flow.breaker is not None
        _, names, args = commands.declare_flow(
            KEYS, QUEUE, fields, serves=True, has_bound=has_bound, has_breaker=has_breaker
        )
        self.redis.eval(source("declare_flow"), len(names), *names, *args)
        if has_breaker:
            self.redis.hset(KEYS.flow(QUEUE), mapping={"phase": phase, "until_ms": 1 << 50})

    def accept(self, call: Call, text: bytes | None = None) -> Any:
        name, names, args = call
        return self.redis.eval(text or source(name), len(names), *names, *args)

    def commands_of(self, call: Call) -> int:
        """How many commands the script runs."""
        self.redis.config_resetstat()
        self.accept(call)
        counted = self.redis.info("commandstats")
        return sum(stat["calls"] for name, stat in counted.items() if name not in {"cmdstat_eval", "cmdstat_info"})


@pytest.fixture
def mailboxes(server: EmbeddedServer) -> Mailboxes:
    """On a server on which commands can be counted: threads of earlier tests may still use the shared one."""
    empty(server.url)
    return Mailboxes(server.url)


def without_admission(name: str) -> bytes:
    """A script that fails if it comes to the admission."""
    return resolve(command(name), replaced={"admission": b"error('asks the admission')"})


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("flow", ["none", "closed", "rates"])
def test_a_closed_breaker_is_passed_without_the_admission(mailboxes: Mailboxes, script: str, flow: str) -> None:
    mailboxes.declare(FLOWS[flow], "closed")
    mailboxes.accept(CALLS[script], without_admission(script))
    assert mailboxes.redis.hget(KEYS.ledger(QUEUE), "accepted") == b"1"


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("flow", ["open", "bounded"])
def test_an_open_breaker_and_a_bound_are_asked(mailboxes: Mailboxes, script: str, flow: str) -> None:
    mailboxes.declare(FLOWS[flow], "open" if flow == "open" else "closed")
    if script == "ask_many":
        assert mailboxes.accept(CALLS[script]) == 0
    else:
        with pytest.raises(Exception, match="asks the admission"):
            mailboxes.accept(CALLS[script], without_admission(script))
    assert mailboxes.redis.hget(KEYS.ledger(QUEUE), "accepted") is None


@pytest.mark.parametrize("script", CALLS)
def test_a_closed_breaker_costs_each_script_one_command(mailboxes: Mailboxes, script: str) -> None:
    mailboxes.declare(FLOWS["none"], "closed")
    plain = mailboxes.commands_of(CALLS[script])
    mailboxes.redis.flushall()
    mailboxes.redis.zadd(KEYS.leases, {"host": 1})
    mailboxes.declare(FLOWS["rates"], "closed")
    assert mailboxes.commands_of(CALLS[script]) == plain + 1
