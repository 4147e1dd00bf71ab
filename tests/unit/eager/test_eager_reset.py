"""`reset()` gives each test an eager mode in which nothing has happened."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import Agent, Breaker, CallerError, CircuitOpen, Dead, Handled, Message, Orchestrator, Retry, handles


class Ask(Message):
    fails: bool = False


class Oracle(Agent):
    name = "oracle"
    retry = Retry(max_retries=0)
    breaker = Breaker(failures=1, window_s=30, open_s=1000)

    @handles(Ask)
    def ask(self, message: Ask) -> None:
        if message.fails:
            raise LookupError("no answer")


def make(*, eager: bool) -> Orchestrator:
    app = Celery("resets", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_always_eager = eager
    orchestrator = Orchestrator(app)
    orchestrator.host(Oracle)
    return orchestrator


def test_nothing_is_left_of_what_happened_before() -> None:
    orchestrator = make(eager=True)
    first = orchestrator.send("oracle", Ask(fails=True), idempotency_key="k")
    assert isinstance(first.outcome(), Dead)
    with pytest.raises(CircuitOpen):
        orchestrator.send("oracle", Ask())
    orchestrator.reset()
    assert orchestrator.dead_letters.count() == 0
    assert orchestrator.ledger() == []
    again = orchestrator.send("oracle", Ask(), idempotency_key="k")
    assert again.id != first.id
    assert isinstance(again.wait(timeout_s=1), Handled)


def test_what_is_in_redis_is_not_reset() -> None:
    with pytest.raises(CallerError, match="eager mode"):
        make(eager=False).reset()
