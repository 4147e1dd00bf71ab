"""What waits for room in a mailbox or a bulkhead keeps no channel from other senders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import signals
from redis import Redis

from orchestrator import (
    Agent,
    Bulkhead,
    BulkheadFull,
    Mailbox,
    MailboxFull,
    Message,
    Orchestrator,
    Retry,
    handles,
)
from tests.support.eventually import eventually
from tests.support.living_agents import close, live, make

#: More than FastPublisher and Celery's pool have connections together.
WAITING = 25


class Quote(Message):
    number: int = 0


class Other(Agent):
    name = "other"
    retry = Retry(max_retries=0)

    @handles(Quote)
    def quote(self, message: Quote) -> int:
        return message.number


class Billing(Other):
    name = "billing"
    bulkhead = Bulkhead(calls=1, wait_s=60)


class Blocking(Other):
    name = "blocking"
    mailbox = Mailbox(limit=1, overflow="block", block_s=60)


class FullBulkhead(Other):
    name = "full_bulkhead"
    bulkhead = Bulkhead(calls=1)


class FullMailbox(Other):
    name = "full_mailbox"
    mailbox = Mailbox(limit=1)


AGENTS = (Other, Billing, Blocking, FullBulkhead, FullMailbox)


@pytest.fixture
def orchestrator(counted_url: str) -> Iterator[Orchestrator]:
    made = make(counted_url, *AGENTS)
    live(made, *[agent.name for agent in AGENTS])
    yield made
    close(made)


@pytest.fixture(params=["fast path", "Celery"])
def publisher(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who publishes: a signal's receiver has Celery do it."""

    def receive(**kwargs: Any) -> None: ...

    if request.param == "Celery":
        signals.after_task_publish.connect(receive)
    yield request.param
    signals.after_task_publish.disconnect(receive)


def in_thread(act: Any, failed: list[Exception]) -> threading.Thread:
    def run() -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the test fails with it
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def send_beside(orchestrator: Orchestrator, failed: list[Exception]) -> None:
    """Send and ask while others wait; fails if that has to wait too."""
    for act in (
        lambda: orchestrator.send("other", Quote()),
        lambda: orchestrator.ask("other", Quote(), timeout_s=60),
        lambda: orchestrator.app.send_task("other.Quote", [{"number": 1}]),
    ):
        beside = in_thread(act, failed)
        beside.join(10)
        assert not beside.is_alive(), "it waits for a channel"


def test_callers_that_wait_for_a_bulkhead_keep_no_channel_from_others(
    orchestrator: Orchestrator, publisher: str
) -> None:
    store: Any = orchestrator.runtime.store
    first = orchestrator.ask("billing", Quote(), timeout_s=120)
    failed: list[Exception] = []

    def wait() -> None:
        orchestrator.ask("billing", Quote(), timeout_s=120).cancel()

    threads = [in_thread(wait, failed) for _ in range(WAITING)]
    eventually(lambda: store.client.zcard(store.keys.bulkhead_line("billing")) == WAITING)
    send_beside(orchestrator, failed)
    first.cancel()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert failed == []


def test_senders_that_wait_for_a_full_mailbox_keep_no_channel_from_others(
    orchestrator: Orchestrator, publisher: str
) -> None:
    store: Any = orchestrator.runtime.store
    orchestrator.send("blocking", Quote())
    failed: list[Exception] = []
    began = threading.Semaphore(0)

    def wait() -> None:
        began.release()
        orchestrator.send("blocking", Quote())

    threads = [in_thread(wait, failed) for _ in range(WAITING)]
    for _ in threads:
        assert began.acquire(timeout=10)
    send_beside(orchestrator, failed)
    # No more messages than may be in the mailbox.
    stream = store.keys.stream("blocking", "0")
    for left in range(WAITING, 0, -1):
        store.client.xtrim(stream, maxlen=0)
        eventually(lambda left=left: sum(thread.is_alive() for thread in threads) < left)  # type: ignore[misc]
    assert failed == []


def test_channels_that_were_opened_while_others_waited_are_closed_again(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    first = orchestrator.ask("billing", Quote(), timeout_s=120)
    failed: list[Exception] = []
    threads = [
        in_thread(lambda: orchestrator.ask("billing", Quote(), timeout_s=120).cancel(), failed) for _ in range(WAITING)
    ]
    eventually(lambda: store.client.zcard(store.keys.bulkhead_line("billing")) == WAITING)
    first.cancel()
    for thread in threads:
        thread.join(30)
    fast: Any = orchestrator.runtime.modes.backend()._fast  # type: ignore[attr-defined]
    assert failed == []
    assert 0 < fast._made == len(fast._idle) <= orchestrator.app.conf.broker_pool_limit


@pytest.mark.parametrize(("agent", "error"), [("full_bulkhead", BulkheadFull), ("full_mailbox", MailboxFull)])
def test_a_refusal_opens_no_connection(
    orchestrator: Orchestrator, counted_url: str, agent: str, error: type[Exception]
) -> None:
    if error is BulkheadFull:
        orchestrator.ask(agent, Quote(), timeout_s=60)
    else:
        orchestrator.send(agent, Quote())

    def refuse() -> None:
        with pytest.raises(error):
            orchestrator.ask(agent, Quote(), timeout_s=60)

    refuse()
    with Redis.from_url(counted_url) as redis:
        before = redis.info("stats")["total_connections_received"]
        for _ in range(20):
            refuse()
        assert redis.info("stats")["total_connections_received"] - before <= 2
