"""Messages that wait in lanes are counted, found, cancelled and purged; mailboxes without a limit pay nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Agent, CancelResult, Concurrency, Mailbox, MailboxFull, Message, Orchestrator, handles
from orchestrator.core.admission.concurrency import Concurrency as Policy
from orchestrator.embedded import EmbeddedServer
from orchestrator.registry.mailboxes import read_some
from orchestrator.transport.redis import commands
from tests.support.coordination_under_test import close, make

WORKER = "w@h:1#1"


class Get(Message):
    tenant: str


class Fetch(Agent):
    name = "fetch"
    concurrency = Concurrency(limit=1, key="tenant")
    mailbox = Mailbox(limit=3)

    @handles(Get)
    def get(self, message: Get) -> None: ...


class Mailroom:
    """The mailbox of one agent, of which the test claims as a worker does."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.orchestrator = orchestrator
        self.store = orchestrator.runtime.store
        orchestrator.runtime.redis.announce(orchestrator.runtime.directory.entries(["fetch"]))
        self.store.client.zadd(self.store.keys.leases, {WORKER: 1})

    def claim(self, credit: int = 10) -> list[tuple[str, str]]:
        """Stream and entry of what may run."""
        k, levels = self.store.keys, self.store.levels
        _, *flat = self.store.run(*commands.claim(k, ["fetch"], levels, WORKER, credit))
        return [(k.stream("fetch", levels[flat[at] - 4]), flat[at + 1].decode()) for at in range(0, len(flat), 4)]

    def settle(self, place: tuple[str, str]) -> None:
        stream, entry = place
        assert self.store.run(*commands.settle(stream, self.store.keys.ledger("fetch"), "handled", [entry])) == 1

    def check(self) -> Any:
        return self.store.run(*commands.check_lanes(self.store.keys, "fetch"))

    @property
    def state(self) -> Any:
        (found,) = read_some(self.store, ["fetch"])
        return found

    def send(self, tenant: str, **options: Any) -> Any:
        return self.orchestrator.send("fetch", Get(tenant=tenant), track=False, **options)


@pytest.fixture
def mailroom(redis_url: str) -> Iterator[Mailroom]:
    made = make(redis_url)
    made.host(Fetch)
    yield Mailroom(made)
    close(made)


def test_messages_in_lanes_count_for_the_bound_the_ledger_and_the_size(mailroom: Mailroom) -> None:
    for tenant in "aaaa":
        mailroom.send(tenant)
        mailroom.claim()
    assert (mailroom.state.waiting, mailroom.state.in_lanes, mailroom.state.held) == (3, 3, 1)
    with pytest.raises(MailboxFull, match="3 messages waiting"):
        mailroom.send("b")
    (row,) = [row for row in mailroom.orchestrator.ledger() if row.queue == "fetch"]
    assert (row.accepted, row.ready, row.pending) == (4, 3, 4)
    with mailroom.orchestrator.app.connection_for_write() as connection:
        assert connection.default_channel._size("fetch") == 3


def test_a_message_in_a_lane_is_found_and_cancelled(mailroom: Mailroom) -> None:
    deliveries = [mailroom.orchestrator.send("fetch", Get(tenant="a")) for _ in range(3)]
    (running,) = mailroom.claim()
    assert deliveries[1].status().value == "pending"
    assert deliveries[1].cancel() is CancelResult.CANCELLED
    mailroom.settle(running)
    assert len(mailroom.claim()) == 1
    assert mailroom.state.in_lanes == 0


def test_whoever_was_cancelled_in_a_lane_keeps_nobody_from_a_permit(mailroom: Mailroom) -> None:
    """Regression: after the limit had been raised, the next message waited behind it until a sweep."""
    deliveries = [mailroom.orchestrator.send("fetch", Get(tenant="a")) for _ in range(2)]
    assert len(mailroom.claim()) == 1
    assert deliveries[1].cancel() is CancelResult.CANCELLED
    call = commands.declare_flow(
        mailroom.store.keys, "fetch", {}, serves=True, has_bound=False, has_breaker=False, concurrency=(2, "tenant")
    )
    mailroom.store.run(*call)
    mailroom.send("a")
    assert len(mailroom.claim()) == 1
    mailroom.send("a")
    assert mailroom.claim() == []


def test_a_purged_lane_holds_nobody_up(mailroom: Mailroom) -> None:
    for _ in range(3):
        mailroom.send("a")
    (running,) = mailroom.claim()
    with mailroom.orchestrator.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("fetch") == 2
    mailroom.send("a")
    assert mailroom.claim() == []
    mailroom.settle(running)
    (running,) = mailroom.claim()
    mailroom.settle(running)
    assert not mailroom.store.client.keys("orc:permits*") + mailroom.store.client.keys("orc:lane:*")


def test_a_permit_of_a_message_that_is_nowhere_ends_with_a_sweep(mailroom: Mailroom) -> None:
    mailroom.send("a")
    mailroom.send("a")
    ((stream, entry),) = mailroom.claim()
    mailroom.store.client.xack(stream, "workers", entry)
    mailroom.store.client.xdel(stream, entry)
    assert mailroom.claim() == []
    mailroom.store.client.zadd(mailroom.store.keys.timers, {"lanes:fetch": 1})
    mailroom.orchestrator.runtime.redis.timers.run()
    assert len(mailroom.claim()) == 1


def test_lanes_empty_when_the_limit_is_declared_away(mailroom: Mailroom) -> None:
    for _ in range(3):
        mailroom.send("a")
    assert len(mailroom.claim()) == 1
    mailroom.store.client.hdel(mailroom.store.keys.flow("fetch"), "concurrency", "concurrency_key")
    mailroom.check()
    assert len(mailroom.claim()) == 2


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"tenant": "a"}, '"a"'),
        ({"before": {"tenant": [1, "}"]}, "text": 'x", "tenant": "y', "tenant": "ü\n"}, '"ü\n"'),
        ({"tenant": 'a/"b"'}, '"a/"b""'),
        ({"tenant": "a\0b"}, '"a\0b"'),
        ({"tenant": 7}, "7"),
        ({"tenant": None, "other": 1}, "null"),
        ({"tenant": {"a": [1, 2]}}, '{"a": [1, 2]}'),
        ({"other": 1}, ""),
        ({}, ""),
        ({"pad": "x" * 3000, "tenant": "b"}, '"b"'),
        ({"pad": "x" * 20_000, "tenant": "b"}, ""),
    ],
)
@pytest.mark.parametrize("is_base64", [True, False])
def test_a_key_is_the_field_of_the_message(
    mailroom: Mailroom, fields: dict[str, Any], key: str, is_base64: bool
) -> None:
    body = json.dumps([[fields], {}, {}])
    properties = {"body_encoding": "base64"} if is_base64 else {}
    body = base64.b64encode(body.encode()).decode() if is_base64 else body
    text = json.dumps({"headers": {"id": "x"}, "properties": properties, "body": body})
    k = mailroom.store.keys
    mailroom.store.run(*commands.publish(k.stream("fetch", mailroom.store.levels[1]), k.ledger("fetch"), [text]))
    assert len(mailroom.claim()) == 1
    assert mailroom.store.client.hkeys("orc:permits-used:fetch") == [key.encode()]


@pytest.mark.parametrize("texts", [('"ü/a"', r'"\u00fc/a"', r'"ü\/a"'), ('"a\\u0000b"', '"a\\u0000b"')])
def test_one_value_written_in_several_ways_is_one_key(mailroom: Mailroom, texts: tuple[str, ...]) -> None:
    k, claimed = mailroom.store.keys, 0
    for text in (*texts, r'"a\u0000c"'):
        body = f'[[{{"tenant": {text}}}], {{}}, {{}}]'
        sent = json.dumps({"headers": {"id": "x"}, "properties": {}, "body": body})
        mailroom.store.run(*commands.publish(k.stream("fetch", mailroom.store.levels[1]), k.ledger("fetch"), [sent]))
        claimed += len(mailroom.claim())
    assert claimed == 2
    assert mailroom.state.in_lanes == len(texts) - 1


def test_the_name_of_a_field_may_have_any_letters(redis_url: str) -> None:
    class Fetching(Message):
        größe: str

    class Sizes(Agent):
        name = "fetch"
        concurrency = Concurrency(limit=1, key="größe")

        @handles(Fetching)
        def get(self, message: Fetching) -> None: ...

    made = make(redis_url)
    made.host(Sizes)
    try:
        room = Mailroom(made)
        for size in "aab":
            made.send("fetch", Fetching(größe=size), track=False)
        assert len(room.claim()) == 2
    finally:
        close(made)


def test_what_claims_knows_that_nobody_may_sleep_at_its_streams(mailroom: Mailroom) -> None:
    bell = mailroom.store.keys.stream("fetch", "bell")
    before = mailroom.store.client.xlen(bell)
    mailroom.send("a")
    assert mailroom.store.client.xlen(bell) == before + 1, "an idle worker is woken by it"
    mailroom.send("a")
    (running,) = mailroom.claim()
    mailroom.settle(running)
    assert mailroom.store.client.xlen(bell) == 3


def _counts(store: Any, act: Any) -> dict[str, int]:
    def read() -> dict[str, int]:
        return {name: int(one["calls"]) for name, one in store.client.info("commandstats").items()}

    before = read()
    act()
    after = read()
    found = {name.removeprefix("cmdstat_"): count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in found.items() if count and name not in ("info", "evalsha", "script|load")}


def test_mailboxes_without_a_limit_pay_for_none_of_it(own_redis_server: EmbeddedServer) -> None:
    made = make(own_redis_server.url)
    try:
        store = made.runtime.store
        k, level = store.keys, store.levels[1]
        stream, ledger = k.stream("plain", level), k.ledger("plain")
        store.run(*commands.publish(stream, ledger, ["{}"]))
        store.client.zadd(k.leases, {WORKER: 1})
        # By then Redis knows all of the scripts.
        first = store.run(*commands.claim(k, ["plain"], store.levels, WORKER, 1))[2]
        assert store.run(*commands.settle(stream, ledger, "handled", [first])) == 1
        assert _counts(store, lambda: store.run(*commands.publish(stream, ledger, ["{}"]))) == {
            "exists": 1, "xadd": 1, "pttl": 1, "hincrby": 1,
        }  # fmt: skip
        got: list[Any] = []
        claims = _counts(store, lambda: got.extend(store.run(*commands.claim(k, ["plain"], store.levels, WORKER, 1))))
        assert (claims["hmget"], claims.get("hget", 0)) == (1, 0)
        entry = got[2]
        assert _counts(store, lambda: store.run(*commands.settle(stream, ledger, "handled", [entry]))) == {
            "xack": 1, "xdel": 1, "pttl": 1, "hincrby": 1, "exists": 1,
        }  # fmt: skip
    finally:
        close(made)


def test_a_policy_has_values_that_are_allowed() -> None:
    assert Policy(3) == Policy(limit=3, key="")
