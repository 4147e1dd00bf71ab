"""What a Celery task says of its own messages (queue, expiry, serializer) holds for a supervised send, unless that says
otherwise; and a send has an end where no connection is free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from redis import Redis

from orchestrator import Agent, CancelResult, Message, Orchestrator, Status, handles
from orchestrator.core.errors import AgentDown, BrokerUnavailable, InvalidPolicy
from orchestrator.core.keys import Keys
from orchestrator.sending import publish
from orchestrator.worker.startup_warnings import startup_warnings

KEYS = Keys()


class Text(Message):
    text: str


class Clerk(Agent):
    name = "clerk"

    @handles(Text)
    def read(self, message: Text) -> None:
        """Never run here."""


def _plain(*args: Any, **kwargs: Any) -> None:
    """Never run here."""


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    app = Celery("tasks", broker=redis_url, set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    for name, options in TASKS.items():
        app.task(_plain, shared=False, name=name, ignore_result=True, **options)
    yield orchestrator
    app.close()


TASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "report": {"queue": "reports"},
    "routed": {"queue": "reports"},
    "hurried": {"expires": 60},
    "pickled": {"serializer": "pickle"},
}


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as client:
        yield client


def only_message(redis: Any, queue: str) -> Any:
    ((_, fields),) = redis.xrange(KEYS.stream(queue, "0"))
    return json.loads(fields[b"m"])


# -- where it goes


def test_a_delivery_is_looked_for_in_its_tasks_own_queue(orchestrator: Orchestrator, redis: Any) -> None:
    delivery = orchestrator.send(orchestrator.app.signature("report"))
    assert redis.xlen(KEYS.stream("reports", "0")) == 1
    assert delivery.queue == "reports"
    assert delivery.status() is Status.PENDING
    assert delivery.cancel() is CancelResult.CANCELLED


def test_whether_a_task_is_up_is_asked_of_its_own_queue(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def host_of(self: Any, agent: str, queue: str) -> str:
        asked.append(queue)
        return ""

    monkeypatch.setattr("orchestrator.registry.registry.Registry.host_of", host_of)
    report = orchestrator.app.signature("report")
    with pytest.raises(AgentDown):
        orchestrator.send(report, when_down="error")
    with pytest.raises(AgentDown):
        orchestrator.call(report, timeout_s=5)
    assert asked == ["reports", "reports"]


def test_a_route_may_depend_on_the_arguments(orchestrator: Orchestrator) -> None:
    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        return {"queue": f"{task.name}-{args[0]}"} if args else None

    orchestrator.app.conf.task_routes = (route,)
    delivery = orchestrator.send(orchestrator.app.signature("plain", ("eu",)))
    assert (delivery.queue, delivery.status()) == ("plain-eu", Status.PENDING)


def test_an_exchange_and_a_routing_key_are_a_mailbox_too(orchestrator: Orchestrator) -> None:
    app = orchestrator.app
    for queue in (
        Queue("eu-mail", Exchange("mail", type="direct"), routing_key="eu"),
        Queue("us-mail", Exchange("mail", type="direct"), routing_key="us"),
        Queue("all-logs", Exchange("logs", type="topic"), routing_key="logs.#"),
    ):
        app.amqp.queues.add(queue)
    app.conf.task_routes = {
        "plain": {"exchange": "mail", "routing_key": "us"},
        "hurried": {"queue": "all-logs", "routing_key": "logs.eu.clerk"},
    }
    with app.connection_for_write() as connection:
        for declared in app.amqp.queues.values():
            declared(connection.default_channel).declare()
    for task, name in (("plain", "us-mail"), ("hurried", "all-logs")):
        delivery = orchestrator.send(app.signature(task))
        assert (delivery.queue, delivery.status()) == (name, Status.PENDING)


# -- until when


def test_a_tasks_own_expiry_holds_unless_the_send_has_one(orchestrator: Orchestrator, redis: Any) -> None:
    def expires_in(delivery: Any) -> timedelta:
        expires = only_message(redis, "celery")["headers"]["expires"]
        delivery.cancel()
        left: timedelta = datetime.fromisoformat(expires) - datetime.now(UTC)
        return left

    hurried = orchestrator.app.signature("hurried")
    minute, hour = timedelta(seconds=60), timedelta(hours=1)
    assert timedelta(seconds=30) < expires_in(orchestrator.send(hurried)) <= minute
    assert minute < expires_in(orchestrator.send(hurried, expires_s=3600)) <= hour
    assert minute < expires_in(orchestrator.send(hurried.clone().set(expires=3600))) <= hour
    orchestrator.send(orchestrator.app.signature("plain"))
    assert only_message(redis, "celery")["headers"]["expires"] is None


# -- the task itself


def test_a_task_is_sent_as_its_signature_without_arguments(orchestrator: Orchestrator, redis: Any) -> None:
    app = orchestrator.app
    delivery = orchestrator.send(app.tasks["plain"])
    assert only_message(redis, "celery")["headers"]["id"] == delivery.id
    assert delivery.message == "plain"
    with pytest.raises(InvalidPolicy, match="message="):
        orchestrator.send(app.tasks["plain"], Text(text="x"))
    with pytest.raises(AgentDown):
        orchestrator.call(app.tasks["plain"], timeout_s=5)


def test_a_task_whose_content_no_worker_takes_is_refused_and_said_at_start_up(orchestrator: Orchestrator) -> None:
    app = orchestrator.app
    with pytest.raises(InvalidPolicy, match=r"serializer='pickle' .*json"):
        orchestrator.send(app.signature("pickled"))
    said = [line for line in startup_warnings(app, ()) if "serializer" in line]
    assert len(said) == 1
    assert said[0].startswith("pickled: serializer='pickle'")
    # Accepting it does not help: pickle is never accepted.
    app.conf.accept_content = ["json", "pickle"]
    with pytest.raises(InvalidPolicy, match=r"serializer='pickle' .*json"):
        orchestrator.send(app.signature("pickled"))


# -- no free connection


def test_a_send_that_finds_no_free_connection_has_an_end(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "PRODUCER_WAIT_S", 0.05)
    app = orchestrator.app
    app.conf.broker_pool_limit = 2
    app.conf.task_send_sent_event = True
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(app.producer_pool.acquire(block=True))
        sends: list[Any] = [
            lambda: orchestrator.send("clerk", Text(text="x")),
            lambda: orchestrator.send_many("clerk", [Text(text="x")]),
            lambda: orchestrator.broadcast(["clerk"], Text(text="x")),
        ]
        for send in sends:
            with pytest.raises(BrokerUnavailable, match=r"broker_pool_limit=2"):
                send()
    assert orchestrator.send("clerk", Text(text="x")).status() is Status.PENDING
