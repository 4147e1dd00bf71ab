"""Whatever accepts a message for an agent with a limit of running messages wakes a reader that sleeps there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from orchestrator import Agent, Context, Majority, Message, Orchestrator, Reply, Vote, handles, replies, votes
from orchestrator.core.keys import DOORBELL, GROUP
from orchestrator.transport.redis import commands
from tests.support.eventually import eventually
from tests.support.living_agents import close, live, make
from tests.support.schedules_under_test import Schedules

QUEUE = "ledgers"


class Reconcile(Message):
    """A message."""

    day: int = 0


class Plan(Message):
    """A proposal."""


class Ledgers(Agent):
    """An agent of whom nobody claims."""

    name = QUEUE

    @handles(Reconcile)
    def reconcile(self, message: Reconcile) -> None:
        """Do nothing."""

    @votes(Plan)
    def vote(self, message: Plan) -> Vote:
        """Approve."""
        return Vote.approve()


class Asker(Agent):
    """An agent that asks."""

    name = "asker"

    @replies(Reconcile)
    def told(self, reply: Reply) -> None:
        """Do nothing."""


@pytest.fixture
def app(redis_url: str) -> Iterator[Orchestrator]:
    """An app whose agents live as far as Redis says."""
    made = make(redis_url, Ledgers, Asker)
    live(made, QUEUE, "asker")
    yield made
    close(made)


def limit(app: Orchestrator) -> None:
    call = commands.declare_flow(
        app.runtime.store.keys, QUEUE, {}, serves=True, has_bound=False, has_breaker=False, concurrency=(1, "")
    )
    app.runtime.store.run(*call)


def context(app: Orchestrator) -> Context:
    return Context("id", "asker", 1, "worker", False, orchestrator=app)


def send(app: Orchestrator) -> None:
    app.send(QUEUE, Reconcile())


def send_once(app: Orchestrator) -> None:
    app.send(QUEUE, Reconcile(), idempotency_key="once")


def send_many(app: Orchestrator) -> None:
    app.send_many(QUEUE, [Reconcile(), Reconcile()])


def ask(app: Orchestrator) -> None:
    context(app).ask(QUEUE, Reconcile(), timeout_s=30, then=True)


def ask_many(app: Orchestrator) -> None:
    context(app).ask_many(QUEUE, [Reconcile(), Reconcile()], timeout_s=30, then=True)


def broadcast(app: Orchestrator) -> None:
    app.broadcast([QUEUE], Reconcile())


def broadcast_to_all(app: Orchestrator) -> None:
    app.broadcast([QUEUE], Reconcile(), strategy="all_or_nothing")


def propose(app: Orchestrator) -> None:
    app.propose(Plan(), [QUEUE], Majority())


def trigger(app: Orchestrator) -> None:
    app.schedules.add("hourly", QUEUE, Reconcile(), every_s=3600)
    app.schedules["hourly"].trigger()


def fire(app: Orchestrator) -> None:
    over = Schedules(app)
    over.declare(due_s=1)
    over.scheduler().tick()


WAYS = (send, send_once, send_many, ask, ask_many, broadcast, broadcast_to_all, propose, trigger, fire)


@pytest.mark.parametrize("accept", WAYS)
def test_a_sleeping_reader_is_woken(app: Orchestrator, redis_url: str, accept: Callable[[Orchestrator], None]) -> None:
    """Regression: but for plain sends, it looked at the mailbox 200 ms later."""
    limit(app)
    keys, client = app.runtime.store.keys, app.runtime.store.client
    bell = keys.stream(QUEUE, DOORBELL)
    client.xgroup_create(bell, GROUP, "$", mkstream=True)

    def sleep() -> list[str]:
        with redis.Redis.from_url(redis_url, client_name="sleeper", decode_responses=True) as own:
            slept: Any = own.xreadgroup(GROUP, "sleeper", {bell: ">"}, count=1, block=5000)
            return [stream for stream, _ in slept]

    def asleep() -> bool:
        return any(one["name"] == "sleeper" and one["cmd"] == "xreadgroup" for one in client.client_list())

    with ThreadPoolExecutor(1) as readers:
        slept = readers.submit(sleep)
        eventually(asleep)
        accept(app)
        assert slept.result() == [bell]


@pytest.mark.parametrize("accept", WAYS)
def test_nobody_rings_at_a_mailbox_without_a_limit(app: Orchestrator, accept: Callable[[Orchestrator], None]) -> None:
    accept(app)
    assert not app.runtime.store.client.exists(app.runtime.store.keys.stream(QUEUE, DOORBELL))
