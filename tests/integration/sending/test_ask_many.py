"""Many asks in few round trips: each has its reply, flow control stops them where it would stop single ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from celery import signals

from orchestrator import (
    Agent,
    Breaker,
    Bulkhead,
    BulkheadFull,
    CircuitOpen,
    Context,
    Handled,
    Mailbox,
    MailboxFull,
    Message,
    Orchestrator,
    Reply,
    handles,
    replies,
)
from orchestrator.core.errors import MessageTooLarge
from orchestrator.embedded import EmbeddedServer
from orchestrator.telemetry import attach, detach
from orchestrator.transport.redis.scripts import sha
from tests.apps.calls_app import Order
from tests.support.askers import askers
from tests.support.eventually import eventually
from tests.support.living_agents import close, live, mail, make
from tests.support.lost_answers import LostAnswers


class Quote(Message):
    number: int = 0
    text: str = ""


class Other(Message):
    name: str = "other"


class Plain(Agent):
    name = "plain"

    @handles(Quote)
    def quote(self, message: Quote) -> int:
        return message.number

    @handles(Other)
    def other(self, message: Other) -> str:
        return message.name


class Full(Plain):
    name = "full"
    mailbox: ClassVar[Mailbox | None] = Mailbox(limit=3)


class Broken(Plain):
    name = "broken"
    breaker = Breaker(failures=1)


class Crowded(Plain):
    name = "crowded"
    bulkhead = Bulkhead(calls=2)


class Asker(Agent):
    name = "asker"

    @replies(Quote)
    def quoted(self, reply: Reply) -> None: ...

    @replies(Other)
    def told(self, reply: Reply) -> None: ...


AGENTS = (Plain, Full, Broken, Crowded, Asker)


@dataclass
class Asks:
    """Asks of an agent whose workers live as far as Redis says."""

    orchestrator: Orchestrator

    def ask(self, agent: str, messages: list[Message], **options: Any) -> list[str]:
        context = Context("id", "asker", 1, "worker", False, orchestrator=self.orchestrator)
        return context.ask_many(agent, messages, **{"timeout_s": 30, "then": True, **options})

    def asked(self, agent: str) -> list[str]:
        """The ids of the requests in its mailbox."""
        return [message["headers"]["id"] for message in mail(self.orchestrator, agent)[agent]]

    @property
    def redis(self) -> Any:
        return self.orchestrator.runtime.store.client

    @property
    def keys(self) -> Any:
        return self.orchestrator.runtime.store.keys


@pytest.fixture
def asks(redis_url: str) -> Iterator[Asks]:
    made = make(redis_url, *AGENTS)
    live(made, *[agent.name for agent in AGENTS])
    yield Asks(made)
    close(made)


def quotes(count: int) -> list[Message]:
    return [Quote(number=number) for number in range(count)]


def test_each_of_many_asks_has_its_reply(server: EmbeddedServer) -> None:
    with askers(server) as cluster:
        outcome = cluster.orchestrator.send("shop", Order(number=5, count=250, many=True)).wait(timeout_s=20)
        assert isinstance(outcome, Handled)
        got = cluster.replied(250)
        assert sorted((r["tag"]["number"], r["result"], r["error"]) for r in got) == [
            (n, 2 * n, "") for n in range(5, 255)
        ]
        assert sorted(r["id"] for r in got) == sorted(outcome.result)
        cluster.idle()
        assert cluster.counts() == {"asked": 250, "handled": 250}
        assert cluster.redis.zcard(cluster.keys.timers) == 0
        assert cluster.redis.keys(cluster.keys.ask("*")) == cluster.redis.keys(cluster.keys.outcome_hooks("*")) == []
        # Killed after it has asked, it asks again when its message is handled again: each ask has a reply.
        cluster.redis.delete("test:replies")
        cluster.orchestrator.send("shop", Order(number=1, count=120, many=True, dies=True))
        eventually(lambda: not cluster.asker.is_running)
        cluster.asker.start()
        assert sorted(r["tag"]["number"] for r in cluster.replied(240)) == sorted([*range(1, 121)] * 2)


def test_the_records_are_those_of_single_asks(asks: Asks) -> None:
    context = Context("id", "asker", 1, "worker", False, orchestrator=asks.orchestrator)
    tag = {"a": 'with "quotes" and é'}
    single = context.ask("plain", Quote(number=1), timeout_s=30, then=True, tag=tag)
    (many,) = asks.ask("plain", [Quote(number=1)], tags=[tag])
    one, other = (asks.redis.hgetall(asks.keys.ask(id)) for id in (single, many))
    moved = {name.replace(single.encode(), many.encode()): value for name, value in one.items()}
    assert moved.keys() == other.keys()
    for name, value in moved.items():
        if not name.startswith(b"copy:"):
            assert value.replace(single.encode(), many.encode()) == other[name]
    first, second = mail(asks.orchestrator, "plain")["plain"]
    for message in (first, second):
        message["body"] = json.loads(base64.b64decode(message["body"]))
        for part in ("delivery_tag", "correlation_id"):
            message["properties"].pop(part)
        for part in ("id", "root_id"):
            message["headers"].pop(part)
        message["headers"]["orc"].pop("deadline_at_s")
    assert first == second
    assert asks.redis.hget(asks.keys.outcome_hooks(many), "ask") == asks.keys.ask(many).encode()
    assert json.loads(other[b"before"] + b"{}" + other[b"after"])["headers"]["id"] == f"reply-{many}"


def test_messages_of_several_types_in_their_order(asks: Asks) -> None:
    ids = asks.ask("plain", [Quote(), Other(), Other(), Quote()])
    assert asks.asked("plain") == ids
    assert asks.redis.zcard(asks.keys.timers) == 4
    assert asks.redis.hget(asks.keys.ledger("plain"), "accepted") == b"4"


def test_each_ask_is_an_event(asks: Asks) -> None:
    seen: list[Any] = []
    attach(seen.append, "ask.sent", "send.stop")
    try:
        ids = asks.ask("plain", quotes(3))
    finally:
        detach(seen.append)
    for name in ("ask.sent", "send.stop"):
        assert [event.metadata["id"] for event in seen if event.name == name] == ids


@pytest.mark.parametrize(
    ("agent", "error", "room"), [("full", MailboxFull, 3), ("crowded", BulkheadFull, 2), ("broken", CircuitOpen, 0)]
)
def test_flow_control_stops_them_and_says_after_how_many(
    asks: Asks, agent: str, error: type[MailboxFull | BulkheadFull | CircuitOpen], room: int
) -> None:
    # Declares its flow control, as a worker does when it starts.
    asks.orchestrator.send(agent, Quote())
    asks.redis.delete(*[asks.keys.stream(agent, "0"), asks.keys.ledger(agent)])
    if agent == "broken":
        asks.orchestrator.breakers.isolate("broken", why="test")
    with pytest.raises(error) as refused:
        asks.ask(agent, quotes(5))
    error_of: Any = refused.value
    assert (error_of.accepted, error_of.requested) == (room, 5)
    assert len(asks.asked(agent)) == room
    assert asks.redis.zcard(asks.keys.timers) == room


def test_an_observer_of_publishes_sees_each(asks: Asks) -> None:
    seen: list[str] = []

    def publishes(**said: Any) -> None:
        seen.append(said["headers"]["id"])

    signals.before_task_publish.connect(publishes)
    try:
        ids = asks.ask("plain", quotes(3))
    finally:
        signals.before_task_publish.disconnect(publishes)
    assert seen == ids == asks.asked("plain")


def test_one_that_is_too_large_is_refused(redis_url: str) -> None:
    made = make(redis_url, *AGENTS)
    made.app.conf.broker_transport_options = {**made.app.conf.broker_transport_options, "max_message_bytes": 4000}
    live(made, "plain")
    asks = Asks(made)
    with pytest.raises(MessageTooLarge):
        asks.ask("plain", [Quote(), Quote(text="x" * 9000)])
    assert asks.asked("plain") == []
    close(made)


@pytest.mark.parametrize("done_first", [True, False])
def test_a_lost_answer_makes_no_second_asks(redis_url: str, done_first: bool) -> None:
    with LostAnswers(redis_url) as network:
        made = make(network.url, *AGENTS)
        live(made, "plain")
        asks = Asks(made)
        asks.ask("plain", quotes(1))
        network.lose(1, sha("ask_many"), done_first=done_first)
        ids = asks.ask("plain", quotes(3))
        assert network.left == 0
        assert asks.asked("plain")[1:] == ids
        assert asks.redis.hget(asks.keys.calls("plain"), "asked") == b"4"
        close(made)
