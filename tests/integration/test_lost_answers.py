"""A connection that breaks while a message is published costs no message and makes no second one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Producer
from redis import Redis

from orchestrator import Agent, Mailbox, Message, Orchestrator, handles
from orchestrator.core.errors import MailboxFull
from orchestrator.core.keys import Keys
from orchestrator.transport.scripts import sha
from tests.lost_answers import LostAnswers

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
    there = redis.zcard(KEYS.delayed("clerk")) if name == "delayed" else redis.xlen(KEYS.step("clerk", 0))
    assert there == 3
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == 3


@pytest.mark.parametrize("times", TIMES)
def test_so_is_a_message_without_an_id(network: LostAnswers, redis: Any, times: int) -> None:
    with Connection(network.url, transport="orchestrator.transport:Transport") as connection:
        producer = Producer(connection.default_channel, serializer="json")
        producer.publish([1], routing_key="plain", retry=True)
        network.lose(times, sha("publish"), done_first=True)
        producer.publish([1], routing_key="plain", retry=True)
        producer.publish([1], routing_key="plain", retry=True)
    assert network.left == 0
    assert redis.xlen(KEYS.step("plain", 0)) == 3


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
    assert redis.xlen(KEYS.step("clerk", 0)) == 4


def test_a_refusal_whose_answer_is_lost_is_still_one(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any
) -> None:
    orchestrator.send("small", Note())
    for times in TIMES:
        network.lose(times, sha("publish"), done_first=True)
        with pytest.raises(MailboxFull):
            orchestrator.send("small", Note())
        assert network.left == 0
    assert redis.xlen(KEYS.step("small", 0)) == 1
    redis.delete(KEYS.step("small", 0))
    orchestrator.send("small", Note())
    assert redis.xlen(KEYS.step("small", 0)) == 1


@pytest.mark.parametrize("times", TIMES)
def test_what_nobody_is_bound_for_becomes_one_letter(
    orchestrator: Orchestrator, network: LostAnswers, redis: Any, times: int
) -> None:
    """Regression: a letter that was buried, and whose answer was lost, was buried again."""

    def publish() -> None:
        orchestrator.app.send_task("plain", exchange="nowhere", routing_key="clerk", retry=True)

    publish()
    network.lose(times, sha("bury_unsent"), done_first=True)
    publish()
    publish()
    assert network.left == 0
    assert orchestrator.dead_letters.count() == 3
    assert int(redis.hget(KEYS.ledger("clerk"), "accepted")) == 3
