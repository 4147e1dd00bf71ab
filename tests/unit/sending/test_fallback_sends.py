"""A fallback `Send` behind an open breaker, in eager mode."""

from __future__ import annotations

import pytest

from orchestrator import FallbackDelivery, Handled, Orchestrator, Send
from orchestrator.core.errors import CircuitOpen
from tests.apps import calls_app
from tests.apps.calls_app import Quote
from tests.support.cluster import NO_REDIS


@pytest.fixture
def orchestrator() -> Orchestrator:
    return calls_app.make(NO_REDIS, eager=True)


@pytest.mark.parametrize("durable", [False, True])
def test_it_waits_until_the_breaker_closes(orchestrator: Orchestrator, durable: bool) -> None:
    orchestrator.breakers.isolate("bounded", why="test")
    sent = orchestrator.call("bounded", Quote(number=3), timeout_s=5, fallback=[Send(durable=durable)])
    assert isinstance(sent, FallbackDelivery)
    assert isinstance(sent.error, CircuitOpen)
    orchestrator.breakers.close("bounded")
    assert sent.delivery.wait(timeout_s=1) == Handled(3)


@pytest.mark.parametrize("durable", [False, True])
def test_it_is_refused_where_its_options_say_so(orchestrator: Orchestrator, durable: bool) -> None:
    orchestrator.breakers.isolate("bounded", why="test")
    with pytest.raises(CircuitOpen) as refused:
        orchestrator.call("bounded", Quote(number=3), timeout_s=5, fallback=[Send(durable=durable, when_open="error")])
    assert "Send(" in refused.value.__notes__[0]
