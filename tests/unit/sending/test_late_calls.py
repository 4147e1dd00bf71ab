"""A request whose deadline passes ends in the same error in eager mode, however it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    Agent,
    Context,
    DeliveryTimeout,
    Hedge,
    Message,
    NotEnoughReplies,
    Orchestrator,
    Reply,
    Retry,
    Send,
    SendFailed,
    Value,
    handles,
    load_settings,
    replies,
)
from tests.support.cluster import NO_REDIS


class Wait(Message):
    """Is interrupted, and passes that on or raises an error of its own."""

    how: str = ""


class Relay(Message):
    pass


class Order(Message):
    pass


class Slow(Agent):
    name = "slow"

    @handles(Wait, idempotent=True)
    def wait(self, message: Wait) -> None:
        try:
            threading.Event().wait(30)
        except BaseException as error:
            if message.how == "own error":
                raise ValueError("interrupted") from error
            raise

    @handles(Relay)
    def relay(self, _message: Relay, context: Context) -> Any:
        return context.orchestrator.call("slow", Wait(), timeout_s=30)


class Shop(Agent):
    name = "shop"

    @handles(Order)
    def order(self, _message: Order, context: Context) -> None:
        context.ask("slow", Wait(), then=True, timeout_s=0.05)

    @replies(Wait)
    def waited(self, reply: Reply) -> None:
        REPLIES.append(reply)


REPLIES: list[Reply] = []


@pytest.fixture
def orchestrator() -> Orchestrator:
    REPLIES.clear()
    app = Celery("late", broker=NO_REDIS, set_as_current=False)
    app.conf.task_always_eager = True
    made = Orchestrator(app, load_settings(broker_url=NO_REDIS))
    made.host(Slow, Shop)
    return made


@pytest.mark.parametrize(
    "ask",
    [
        lambda o: o.call("slow", Wait(), timeout_s=0.05),
        lambda o: o.call("slow", Wait(how="own error"), timeout_s=0.05),
        lambda o: o.call("slow", Relay(), timeout_s=0.05),
        lambda o: o.call("slow", Wait(), timeout_s=0.05, on_death="fail"),
        lambda o: o.call("slow", Wait(), timeout_s=0.05, retry=Retry(max_retries=2)),
        lambda o: o.call("slow", Wait(), timeout_s=0.05, hedge=Hedge(after_s=0.01)),
        lambda o: o.ask("slow", Wait(), timeout_s=0.05).reply(),
    ],
    ids=["call", "own error", "nested", "must not run again", "retried", "hedged", "ask"],
)
def test_who_waits_gets_one_error(orchestrator: Orchestrator, ask: Callable[[Orchestrator], Any]) -> None:
    with pytest.raises(DeliveryTimeout, match=r"^request \S+ has no reply after 0.05 s$"):
        ask(orchestrator)
    assert orchestrator.dead_letters.count() == 0


def test_fallbacks_are_tried_after_it(orchestrator: Orchestrator) -> None:
    assert orchestrator.call("slow", Wait(), timeout_s=0.05, fallback=[Value(3)]) == 3
    durable = Send(durable=True, deadline_s=1e-6, on_error="ignore")
    assert isinstance(orchestrator.call("slow", Wait(), timeout_s=0.05, fallback=[durable]).error, DeliveryTimeout)


def test_of_many_each_has_it(orchestrator: Orchestrator) -> None:
    with pytest.raises(NotEnoughReplies) as late:
        orchestrator.ask_all(["slow"], Wait(), timeout_s=0.05)
    assert isinstance(late.value.errors["slow"], DeliveryTimeout)


def test_a_reply_has_it(orchestrator: Orchestrator) -> None:
    orchestrator.send("shop", Order())
    (reply,) = REPLIES
    assert isinstance(reply.error, DeliveryTimeout)
    assert (reply.outcome, str(reply.error)) == (None, f"request {reply.id} has no reply after 0.05 s")
    (counts,) = orchestrator.call_counts()
    assert (counts.timeout, counts.dead) == (1, 0)


def test_a_timeout_of_the_handlers_own_is_a_failure(orchestrator: Orchestrator) -> None:
    class Strict(Agent):
        name = "strict"

        @handles(Wait, timeout_s=0.05)
        def wait(self, _message: Wait) -> None:
            threading.Event().wait(30)

    orchestrator.host(Strict)
    with pytest.raises(SendFailed, match="timeout: HandlerTimeout"):
        orchestrator.call("strict", Wait(), timeout_s=20)
