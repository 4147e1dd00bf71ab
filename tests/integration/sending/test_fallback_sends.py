"""A fallback `Send` where flow control has refused the request: behind an open breaker, and of a full mailbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import FallbackDelivery, Handled, Send
from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.embedded import EmbeddedServer
from tests.apps.calls_app import Quote
from tests.support.askers import Askers, askers


@pytest.fixture(scope="module")
def both() -> Iterator[Askers]:
    with EmbeddedServer() as server, askers(server, "billing,bounded") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _anew(both: Askers) -> None:
    both.forget()


@pytest.mark.parametrize("durable", [False, True])
def test_behind_an_open_breaker_it_is_deferred(both: Askers, durable: bool) -> None:
    both.orchestrator.breakers.isolate("bounded", why="test")
    sent = both.orchestrator.call("bounded", Quote(number=3), timeout_s=5, fallback=[Send(durable=durable)])
    assert isinstance(sent, FallbackDelivery)
    assert isinstance(sent.error, CircuitOpen)
    assert both.redis.xlen(both.keys.deferred("bounded")) == 1
    assert both.orchestrator.breakers.close("bounded")
    assert sent.delivery.wait(timeout_s=20) == Handled(3)


@pytest.mark.parametrize("durable", [False, True])
def test_its_options_may_have_an_open_breaker_refuse_it(both: Askers, durable: bool) -> None:
    both.orchestrator.breakers.isolate("bounded", why="test")
    with pytest.raises(CircuitOpen) as refused:
        both.orchestrator.call(
            "bounded", Quote(number=3), timeout_s=5, fallback=[Send(durable=durable, when_open="error")]
        )
    assert "CircuitOpen" in refused.value.__notes__[0]


@pytest.mark.parametrize("durable", [False, True])
def test_a_full_mailbox_refuses_it_like_the_request(both: Askers, durable: bool) -> None:
    waiting = both.orchestrator.send("bounded", Quote(number=7), countdown_s=3600)
    try:
        with pytest.raises(MailboxFull) as refused:
            both.orchestrator.call("bounded", Quote(number=3), timeout_s=5, fallback=[Send(durable=durable)])
        assert "MailboxFull" in refused.value.__notes__[0]
    finally:
        assert waiting.cancel() == "cancelled"
