"""Calls by real workers: deaths, durable fallbacks, retries, hedges, many at once."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from orchestrator import (
    AgentDown,
    Ask,
    Constant,
    FallbackDelivery,
    Handled,
    Hedge,
    NotEnoughReplies,
    Retry,
    Send,
    SendFailed,
    Stale,
    UnknownAgent,
    UnknownMessage,
    Value,
)
from orchestrator.core.errors import DeliveryTimeout
from orchestrator.embedded import EmbeddedServer
from tests.apps.calls_app import Quote, Slowly
from tests.support.askers import Askers, askers
from tests.support.eventually import eventually
from tests.support.started_script import LOADED, started_script
from tests.support.worker_process import ROOT


@pytest.fixture(scope="module")
def both() -> Iterator[Askers]:
    # In one worker, the one of two agents that holds its slot would keep the other from replying.
    with EmbeddedServer() as server, askers(server, "billing", "shop,bounded") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _anew(both: Askers) -> None:
    # The test before may have started the worker again.
    eventually(lambda: both.orchestrator.registry.hosted("billing", "billing"))
    both.forget()


def test_a_call_and_an_ask(both: Askers) -> None:
    orchestrator = both.orchestrator
    assert orchestrator.call("billing", Quote(number=2), timeout_s=10) == 4
    asked = [orchestrator.ask("billing", Quote(number=n), timeout_s=10) for n in range(5)]
    assert [one.reply() for one in asked] == [0, 2, 4, 6, 8]
    held = orchestrator.ask("billing", Quote(number=1, how="holds"), timeout_s=10)
    eventually(lambda: both.redis.llen("test:begun"))
    waiting = orchestrator.ask("billing", Quote(number=1), timeout_s=10)
    assert waiting.cancel() == "cancelled"
    with pytest.raises(DeliveryTimeout):
        held.reply(timeout_s=0.05)
    both.redis.rpush("test:go:1", 1)
    assert held.reply() == 2


@pytest.mark.parametrize("retry", [None, Retry(max_retries=2, backoff=Constant(delay_s=0))], ids=["once", "retried"])
def test_who_must_not_run_again_fails_as_soon_as_its_death_is_found(both: Askers, retry: Retry | None) -> None:
    took_s: list[float] = []

    def call() -> None:
        began, held = monotonic(), Quote(number=3, how="holds")
        with pytest.raises(SendFailed, match="worker died"):
            both.orchestrator.call("billing", held, timeout_s=60, on_death="fail", retry=retry)
        took_s.append(monotonic() - began)

    calling = threading.Thread(target=call)
    calling.start()
    eventually(lambda: both.redis.llen("test:begun"))
    both.callee.kill()
    # Its heart proves the death; whoever lives sweeps.
    calling.join(20)
    both.callee.start()
    assert took_s
    assert took_s[0] < 15
    both.idle()
    # It has not run again, and is no dead letter: its caller has the error.
    assert both.redis.llen("test:begun") == 1
    assert both.orchestrator.dead_letters.count() == 0


def test_an_ask_that_must_not_run_again_is_replied_with_the_death(both: Askers) -> None:
    # An ask, from here in the name of the shop.
    both.orchestrator.runtime.asker.ask("shop", "billing", Quote(number=3, how="dies once"), 60, {"n": 3}, "fail")
    eventually(lambda: not both.callee.is_running)
    both.callee.start()
    (reply,) = both.replied(1)
    assert "worker died" in reply["error"]
    both.idle()
    assert both.redis.llen("test:begun") == 1


CALLER = """
import os, sys
sys.path.insert(0, {root!r})
from orchestrator import Send
from tests.apps import calls_app
from tests.apps.calls_app import Quote
orchestrator = calls_app.make({url!r})
{loaded}
orchestrator.call("bounded", Quote(number=8, how="holds"), timeout_s={timeout_s}, fallback=[Send(durable=True)])
"""


def begin_caller(both: Askers, timeout_s: float) -> subprocess.Popen[str]:
    return started_script(CALLER.format(root=str(ROOT), url=both.url, timeout_s=timeout_s, loaded=LOADED))


def test_a_durable_fallback_is_sent_although_its_caller_was_killed(both: Askers) -> None:
    # A busy worker begins it after some seconds; after the time-out it would not begin it.
    with begin_caller(both, timeout_s=5) as caller:
        try:
            eventually(lambda: both.redis.llen("test:begun") == 1, 20)
        finally:
            caller.kill()
    # A sweep notices the time-out; the request runs, and ends as it ends.
    eventually(lambda: both.counts("bounded").get("fell_back") == 1, 20)
    both.redis.rpush("test:go:8", 1, 1)
    eventually(lambda: both.redis.llen("test:begun") == 2, 20)
    both.idle()
    counts = both.counts("bounded")
    assert (counts["asked"], counts.get("timeout", 0) + counts.get("dead", 0)) == (1, 1)


def test_a_fallback_that_cannot_be_tried_is_refused_before_the_call_is_sent(both: Askers) -> None:
    """Regression: it was noticed only when it was needed, and hid the call's own error and the fallbacks after it."""
    failing = Quote(number=1, how="fails")
    for fallback, error in (("ghost", UnknownAgent), ("shop", UnknownMessage)):
        before = sum(row.accepted for row in both.orchestrator.ledger())
        with pytest.raises(error):
            both.orchestrator.call("billing", failing, timeout_s=10, fallback=[Ask(fallback), Value(3)])
        assert sum(row.accepted for row in both.orchestrator.ledger()) == before


def test_a_durable_fallback_is_sent_once(both: Askers) -> None:
    sent = both.orchestrator.call(
        "bounded", Quote(number=1, how="fails"), timeout_s=10, fallback=[Send(durable=True, on_error="ignore")]
    )
    assert isinstance(sent, FallbackDelivery)
    assert isinstance(sent.error, SendFailed)
    sent.delivery.wait(timeout_s=10)
    both.idle()
    assert both.counts("bounded")["fell_back"] == 1
    both.close_breaker()
    assert both.orchestrator.call("bounded", Quote(number=2), timeout_s=10, fallback=[Send(durable=True)]) == 2
    late = both.orchestrator.call(
        "bounded", Quote(number=5, how="holds"), timeout_s=0.3, fallback=[Send(durable=True, timeout_s=20)]
    )
    assert isinstance(late, FallbackDelivery)
    both.redis.rpush("test:go:5", 1, 1)
    assert isinstance(late.delivery.wait(timeout_s=20), Handled)
    both.idle()
    both.close_breaker()


def test_fallbacks_in_their_order(both: Askers) -> None:
    call = both.orchestrator.call
    failing = Quote(number=6, how="fails")
    assert call("billing", failing, timeout_s=10, fallback=[Ask("bounded"), Value(0)]) == 0
    both.close_breaker()
    assert call("bounded", Quote(number=6), timeout_s=10, fallback=[Stale(60)]) == 6
    with pytest.raises(SendFailed):
        call("bounded", failing, timeout_s=10, fallback=[Stale(60)])
    # The breaker is open.
    assert call("bounded", Quote(number=6), timeout_s=10, fallback=[Stale(60)]) == 6
    assert call("bounded", Quote(number=7), timeout_s=10, fallback=[Stale(60), Value(-1)]) == -1
    both.close_breaker()


def test_retries_and_their_budget(both: Askers) -> None:
    call = both.orchestrator.call
    for _ in range(12):
        with pytest.raises(SendFailed, match="no price"):
            call(
                "billing",
                Quote(number=1, how="fails"),
                timeout_s=10,
                retry=Retry(max_retries=1, backoff=Constant(delay_s=0)),
            )
    counts = both.counts()
    # Ten at the start, and a tenth of a retry for each of twelve calls.
    assert (counts["asked"], counts["retried"], counts["over_budget"]) == (12 + 11, 11, 1)
    assert call("billing", Quote(number=2), timeout_s=10, retry=Retry()) == 4


def test_the_first_copy_that_is_answered_is_the_reply_and_the_others_are_cancelled(both: Askers) -> None:
    orchestrator = both.orchestrator
    assert orchestrator.call("billing", Slowly(key="quick"), timeout_s=30, hedge=Hedge(after_s=10, most=3)) == "quick"
    assert both.counts() == {"asked": 1, "handled": 1, "budget": 1010}

    def end_the_first() -> None:
        eventually(lambda: both.counts().get("hedged") == 2, 20)
        both.redis.rpush("test:never", 1)

    ending = threading.Thread(target=end_the_first)
    ending.start()
    # One worker with one slot: the copies wait behind the first, and are cancelled when it ends.
    slow = Slowly(key="slow", for_s=20)
    assert orchestrator.call("billing", slow, timeout_s=30, hedge=Hedge(after_s=0.1, most=3)) == "slow"
    ending.join()
    both.idle()
    assert both.counts()["hedged"] == 2
    assert both.row("billing").cancelled >= 2
    assert both.redis.lrange("test:ran", 0, -1) == [b"quick", b"slow"]
    assert both.redis.zcard(both.keys.timers) == 0
    assert both.redis.keys(both.keys.ask("*")) == []


def test_asking_many(both: Askers) -> None:
    orchestrator = both.orchestrator
    replies = orchestrator.ask_all(["billing", "bounded"], Quote(number=3), timeout_s=10)
    assert replies.results == {"billing": 6, "bounded": 3}
    # One is held, and not needed.
    held = orchestrator.ask_all(["billing", "bounded"], Quote(number=3, how="bounded holds"), timeout_s=10, need=1)
    assert held.results == {"billing": 6}
    both.redis.rpush("test:go:3", 1)
    both.idle()
    with pytest.raises(NotEnoughReplies) as caught:
        orchestrator.ask_all(["billing", "alone"], Quote(number=3), timeout_s=10)
    assert isinstance(caught.value.errors["alone"], AgentDown)
    began = monotonic()
    with pytest.raises(NotEnoughReplies) as early:
        orchestrator.ask_all(["billing", "bounded"], Quote(number=3, how="fails"), timeout_s=30, need=2)
    # It is clear before the time-out that there are not enough.
    assert monotonic() - began < 20
    assert early.value.results == {}
    both.close_breaker()
    # Another number: the one above may have been cancelled before it was begun.
    with pytest.raises(NotEnoughReplies) as late:
        orchestrator.ask_all(["billing"], Quote(number=9, how="holds"), timeout_s=0.3)
    assert isinstance(late.value.errors["billing"], DeliveryTimeout)
    both.redis.rpush("test:go:9", 1)
    both.idle()


def test_nobody_there(both: Askers) -> None:
    with pytest.raises(AgentDown):
        both.orchestrator.call("alone", Quote(number=1), timeout_s=5)
    fallback: list[Any] = [Value("none")]
    assert both.orchestrator.call("alone", Quote(number=1), timeout_s=5, fallback=fallback) == "none"
