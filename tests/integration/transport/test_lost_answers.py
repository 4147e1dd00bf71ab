"""A connection that breaks while a message is published costs no message and makes no second one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import OperationalError
from redis import Redis

from orchestrator import Agent, Mailbox, Message, Orchestrator, handles
from orchestrator.core.errors import MailboxFull
from orchestrator.core.keys import Keys
from orchestrator.transport import publishing
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.refusals import RefusesForNow
from orchestrator.transport.redis.scripts import script_of, sha, source
from tests.support.lost_answers import LostAnswers

KEYS = Keys()

#: More than once means: the answer to the second try is lost as well.
TIMES = (1, 2)


class Note(Message):
    text: str = ""


class Clerk(Agent):
    name = "clerk"

    @handles(Note)
    def read(self, message: Note) -> None:
        """Never run here."""


class Small(Agent):
    name = "small"
    mailbox = Mailbox(limit=1)

    @handles(Note)
    def read(self, message: Note) -> None:
        """Never run here."""


@pytest.fixture
def network(redis_url: str) -> Iterator[LostAnswers]:
    with LostAnswers(redis_url) as network:
        yield network


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def orchestrator(network: LostAnswers) -> Iterator[Orchestrator]:
    app = Celery("lost", broker=network.url, set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    orchestrator.host(Small)
    app.task(_plain, shared=False, name="plain", ignore_result=True)
    yield orchestrator
    app.close()


def _plain() -> None:
    """Never run here."""


PUBLISHES: dict[str, Callable[[Orchestrator], Any]] = {
    "send": lambda o: o.send("clerk", Note()),
    "apply_async": lambda o: o.app.tasks["plain"].apply_async(queue="clerk"),
    "delayed": lambda o: o.send("clerk", Note(), countdown_s=60),
}


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", PUBLISHES)
def test_it_is_accepted_once(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any, name: str, times: int, done_first: bool
) -> None:
    publish = PUBLISHES[name]
    publish(orchestrator)
    network.lose(times, sha("delay" if name == "delayed" else "publish"), done_first=done_first)
    publish(orchestrator)
    assert network.left == 0
    publish(orchestrator)
    there = redis.zcard(KEYS.delayed("clerk")) if name == "delayed" else redis.xlen(KEYS.stream("clerk", 0))
    assert there == 3
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == 3


DUE_MEANWHILE: dict[str, Callable[[Orchestrator], Any]] = {
    "delay": lambda o: o.send("clerk", Note(), countdown_s=60),
    "accept": lambda o: o.send("clerk", Note(), countdown_s=60, idempotency_key="a", idempotency_ttl_s=1),
}


@pytest.mark.parametrize("script", DUE_MEANWHILE)
def test_so_is_a_message_that_falls_due_before_its_sender_tries_again(
    orchestrator: Orchestrator,
    network: LostAnswers,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    """Regression: the second try found it neither scheduled nor written down, and wrote the key with the empty name."""
    orchestrator.send("clerk", Note())
    before = redis.hgetall(KEYS.ledger("clerk"))
    redis.script_load(source(script))
    network.lose(2, sha(script), done_first=True)
    tries = iter([60_000])

    def delay_ms(headers: Any) -> int:
        if (delay := next(tries, None)) is not None:
            return delay
        # Redis moves what is due, and the outcome of one that has ended may be forgotten.
        redis.delete(KEYS.delayed("clerk"), KEYS.delayed_bodies("clerk"), KEYS.idempotency("clerk", "", "a"))
        return 0

    monkeypatch.setattr(publishing, "_delay_ms", delay_ms)
    # The connection tries again once by itself, and kombu after that over others, when the message is due.
    DUE_MEANWHILE[script](orchestrator)
    assert network.left == 0
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == int(before[b"accepted"]) + 1
    assert redis.xlen(KEYS.stream("clerk", 0)) == 1
    assert not redis.exists("")


def test_an_acl_that_allows_only_the_librarys_keys_is_enough(redis_url: str, redis: Any) -> None:
    """Regression: a sender whose first answer was lost heard that its accepted message was refused."""
    redis.acl_setuser(
        "clerk", enabled=True, passwords=["+secret"], categories=["+@all"], keys=["orc:*", "_kombu*"], channels=["*"]
    )
    try:
        with LostAnswers(redis_url) as network:
            url = f"redis://clerk:secret@127.0.0.1:{urlsplit(network.url).port}/0"
            app = Celery("acl", broker=url, set_as_current=False)
            orchestrator = Orchestrator(app)
            orchestrator.host(Clerk)
            for script, publish in {**DUE_MEANWHILE, "publish": PUBLISHES["send"]}.items():
                network.lose(2, sha(script), done_first=True)
                publish(orchestrator)
                assert network.left == 0
            app.close()
    finally:
        redis.acl_deluser("clerk")
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == 3


@pytest.mark.parametrize("done_first", [True, False])
def test_a_broadcast_is_sent_once(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any, done_first: bool
) -> None:
    redis.zadd(KEYS.leases, {"clerk@here#1": 9e15})
    redis.sadd(KEYS.servers("clerk"), "clerk@here#1")
    redis.script_load(source("broadcast"))
    network.lose(1, sha("broadcast"), done_first=done_first)
    report = orchestrator.broadcast(["clerk", "small"], Note())
    assert network.left == 0
    assert [receipt.refusal for receipt in report.receipts] == [None, "down"]
    assert redis.xlen(KEYS.stream("clerk", 0)) == 1


def test_who_ends_a_monitor_learns_that_there_was_one(orchestrator: Orchestrator, network: LostAnswers) -> None:
    """Regression: it was told that there was none, as the first try had ended it."""
    script = script_of("orchestrator.monitors", "demonitor")
    with orchestrator.monitors.session() as session:
        first, second = (session.monitor(session.id) for _ in range(2))
        assert orchestrator.monitors.demonitor(first)
        network.lose(1, script.sha, done_first=True)
        assert orchestrator.monitors.demonitor(second)
        assert network.left == 0
        assert not orchestrator.monitors.demonitor(second)


def test_a_server_that_refuses_between_two_tries_does_not_make_them_forget_the_first(
    network: LostAnswers, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, refused = CommandConnection.run, iter([False, True])

    def refusing(self: CommandConnection, script: Any, keys: Any, args: Any) -> Any:
        if script == "publish" and next(refused, False):
            raise RefusesForNow("LOADING")
        return run(self, script, keys, args)

    with Connection(network.url, transport="orchestrator.transport:Transport") as connection:
        producer = Producer(connection.default_channel, serializer="json")
        network.lose(2, sha("publish"), done_first=True)
        monkeypatch.setattr(CommandConnection, "run", refusing)
        with pytest.raises(OperationalError):
            producer.publish([1], routing_key="plain", retry=True)
        producer.publish([1], routing_key="plain", retry=True)
    assert network.left == 0
    assert redis.xlen(KEYS.stream("plain", 0)) == 1


def test_clients_that_live_for_a_moment_leave_no_key_each(redis_url: str, redis: Any) -> None:
    for _ in range(20):
        with Connection(redis_url, transport="orchestrator.transport:Transport") as connection:
            Producer(connection.default_channel, serializer="json").publish([1], routing_key="plain")
    keys = redis.keys(f"{KEYS.root}last-publish:*")
    assert 1 <= len(keys) <= 2
    assert all(0 < redis.pttl(key) <= 900_000 for key in keys)
    assert redis.xlen(KEYS.stream("plain", 0)) == 20


@pytest.mark.parametrize("times", TIMES)
def test_so_is_a_message_without_an_id(network: LostAnswers, redis: Any, times: int) -> None:
    with Connection(network.url, transport="orchestrator.transport:Transport") as connection:
        producer = Producer(connection.default_channel, serializer="json")
        producer.publish([1], routing_key="plain", retry=True)
        network.lose(times, sha("publish"), done_first=True)
        producer.publish([1], routing_key="plain", retry=True)
        producer.publish([1], routing_key="plain", retry=True)
    assert network.left == 0
    assert redis.xlen(KEYS.stream("plain", 0)) == 3


@pytest.mark.parametrize("times", TIMES)
def test_what_is_meant_to_be_sent_twice_is(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any, times: int
) -> None:
    plain = orchestrator.app.signature("plain", task_id="the-same", queue="clerk")
    orchestrator.send(plain)
    orchestrator.send(plain)
    network.lose(times, sha("publish"), done_first=True)
    orchestrator.send(plain)
    orchestrator.send(plain)
    assert redis.xlen(KEYS.stream("clerk", 0)) == 4


def test_a_refusal_whose_answer_is_lost_is_still_one(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any
) -> None:
    orchestrator.send("small", Note())
    for times in TIMES:
        network.lose(times, sha("publish"), done_first=True)
        with pytest.raises(MailboxFull):
            orchestrator.send("small", Note())
        assert network.left == 0
    assert redis.xlen(KEYS.stream("small", 0)) == 1
    redis.delete(KEYS.stream("small", 0))
    orchestrator.send("small", Note())
    assert redis.xlen(KEYS.stream("small", 0)) == 1


@pytest.mark.parametrize("times", TIMES)
def test_what_nobody_is_bound_for_becomes_one_letter(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any, times: int
) -> None:
    """Regression: a letter that was dead-lettered, and whose answer was lost, was dead-lettered again."""

    def publish() -> None:
        orchestrator.app.send_task("plain", exchange="nowhere", routing_key="clerk", retry=True)

    publish()
    network.lose(times, sha("dead_letter_unsent"), done_first=True)
    publish()
    publish()
    assert network.left == 0
    assert orchestrator.dead_letters.count() == 3
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == 3
