"""What a call makes of a reply that comes at the last moment, and of what it is told to fall back to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

import pytest

from orchestrator import (
    Ask,
    Asked,
    Cancelled,
    CancelResult,
    Constant,
    Dead,
    FallbackDelivery,
    Handled,
    Hedge,
    NotEnoughReplies,
    OnError,
    Orchestrator,
    Retry,
    Send,
    Stale,
    Value,
)
from orchestrator.core import call_budget
from orchestrator.core.errors import AgentDown, CircuitOpen, DeliveryTimeout, InvalidPolicy, SendFailed, UnknownAgent
from orchestrator.core.outcome import Outcome
from orchestrator.sending.backend import SendResult
from orchestrator.sending.delivery import Delivery, Found
from orchestrator.sending.outgoing_message import OutgoingMessage
from orchestrator.telemetry import attach, detach
from tests.apps import agents_app, calls_app
from tests.apps.calls_app import Quote
from tests.support.cluster import NO_REDIS

AT_ONCE = Constant(delay_s=0)


class Late:
    """A tracker of a delivery whose outcome is there when it is cancelled, and not before."""

    def __init__(self, says: CancelResult, outcome: Outcome) -> None:
        self._says = says
        self._outcome = outcome
        self.cancelled = False

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        return None

    def find(self, queue: str, delivery_id: str) -> Found | None:
        return None

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        return None

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        self.cancelled = True
        return self._says

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        return self._outcome if self.cancelled else None

    def asked(self, left_s: float = 0) -> Asked:
        delivery = Delivery("d1", "agent", "Message", OnError.IGNORE, self.outcome, self)
        return Asked(delivery, 0.01, monotonic() + left_s)


def test_a_reply_that_is_there_when_the_call_is_cancelled_is_returned() -> None:
    assert Late(CancelResult.TOO_LATE, Handled(7)).asked().reply() == 7


def test_a_failure_that_is_there_then_is_told() -> None:
    with pytest.raises(SendFailed, match="no money"):
        Late(CancelResult.TOO_LATE, Dead("timeout", "no money")).asked().reply()


def test_what_was_cancelled_has_no_reply() -> None:
    with pytest.raises(DeliveryTimeout):
        Late(CancelResult.CANCELLED, Cancelled("sender")).asked().reply()


def test_a_shorter_wait_leaves_the_request() -> None:
    tracker = Late(CancelResult.CANCELLED, Cancelled("sender"))
    with pytest.raises(DeliveryTimeout, match=r"after 0\.01 s"):
        tracker.asked(left_s=10).reply(timeout_s=0.01)
    assert not tracker.cancelled
    for wrong in (0, -1, "1", True, float("nan")):
        with pytest.raises(InvalidPolicy, match="timeout_s="):
            tracker.asked(left_s=10).reply(timeout_s=wrong)  # type: ignore[arg-type]


class DiesAfterTheFirst:
    """A backend whose agent is down once it has a request, which another worker answers in the end."""

    def __init__(self) -> None:
        self.sent: list[OutgoingMessage] = []
        self._reads = 0

    def send(self, message: OutgoingMessage) -> SendResult:
        if self.sent:
            raise AgentDown("billing")
        self.sent.append(message)
        return SendResult(message.id)

    def inbox(self, inbox_id: str) -> AbstractContextManager[DiesAfterTheFirst]:
        return nullcontext(self)

    def waiting(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def read(self, until: float) -> list[tuple[str, Outcome]]:
        self._reads += 1
        return [] if self._reads == 1 else [(self.sent[0].id, Handled(7))]


def test_a_copy_that_cannot_be_sent_leaves_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrator = calls_app.make(NO_REDIS, eager=True)
    backend = DiesAfterTheFirst()
    monkeypatch.setattr(orchestrator.runtime.caller, "_backend", lambda: backend)
    hedge = Hedge(after_s=0.01, most=3)
    assert orchestrator.call("billing", calls_app.Slowly(key="a"), timeout_s=5, hedge=hedge) == 7
    assert len(backend.sent) == 1


def test_no_fallback_is_none() -> None:
    orchestrator = agents_app.make(NO_REDIS, eager=True)
    for fallback in (None, False):
        with pytest.raises(SendFailed):
            orchestrator.call("worker", agents_app.Broken(), timeout_s=5, fallback=fallback)
    assert isinstance(orchestrator.call("worker", agents_app.Broken(), timeout_s=5, fallback={}), FallbackDelivery)


@pytest.fixture
def orchestrator() -> Orchestrator:
    return calls_app.make(NO_REDIS, eager=True)


@pytest.mark.parametrize(
    "fallback",
    [
        0,
        "yes",
        (),
        [],
        ["billing-eu"],
        [Value(1), Value(2)],
        [Ask("billing")],
        [Ask("shop"), Ask("shop")],
        [Send(durable=True), Value(1)],
        [Stale(1), Send(durable=True)],
        [Stale(1)] * 11,
    ],
)
def test_fallbacks_that_are_refused(orchestrator: Orchestrator, fallback: Any) -> None:
    with pytest.raises(InvalidPolicy, match="fallback="):
        orchestrator.call("billing", Quote(number=1), timeout_s=5, fallback=fallback)
    assert orchestrator.ledger() == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"on_death": "die"}, "on_death="),
        ({"retry": 3}, "retry="),
        ({"hedge": 0.05}, "hedge="),
        ({"hedge": Hedge(after_s=5)}, "after_s=5.*less than timeout_s=5"),
        ({"hedge": Hedge(after_s=1)}, r"hedge=.*@handles\(Quote, idempotent=True\)"),
        ({"retry": Retry(), "fallback": [Send(durable=True)]}, "retry="),
    ],
)
def test_options_that_are_refused(orchestrator: Orchestrator, options: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidPolicy, match=what):
        orchestrator.call("billing", Quote(number=1), timeout_s=5, **options)
    assert orchestrator.ledger() == []


def test_values_that_are_refused() -> None:
    for make in (
        lambda: Hedge(after_s=0),
        lambda: Hedge(after_s=1, most=6),
        lambda: Hedge(after_s=1, most=1),
        lambda: Stale(0),
        lambda: Stale(10**7),
        lambda: Send(durable=1),  # type: ignore[arg-type]
        lambda: Send(durable=True, countdown_s=5),
        lambda: Send(durable=True, idempotency_key="k"),
        lambda: Send(timeout_s=-1),
    ):
        with pytest.raises(InvalidPolicy):
            make()
    with pytest.raises(TypeError, match=r"Send.*did you mean 'deadline_s'"):
        Send(dedline_s=5)  # type: ignore[call-arg]


def test_the_first_fallback_that_works_is_returned(orchestrator: Orchestrator) -> None:
    seen: list[Any] = []
    attach(seen.append, "call.fell_back")
    try:
        failing = Quote(number=1, how="billing fails")
        assert orchestrator.call("billing", failing, timeout_s=5, fallback=[Ask("bounded"), Value(7)]) == 1
        assert orchestrator.call("billing", failing, timeout_s=5, fallback=[Stale(60), Value(7)]) == 7
        sent = orchestrator.call("billing", failing, timeout_s=5, fallback=[Send(on_error="ignore")])
        assert isinstance(sent, FallbackDelivery)
        assert isinstance(sent.error, SendFailed)
    finally:
        detach(seen.append)
    assert [event.metadata["to"] for event in seen] == ["Ask", "Value", "Send"]
    assert {event.metadata["error"] for event in seen} == {"SendFailed"}


def test_a_fallback_that_fails_leaves_the_first_error(orchestrator: Orchestrator) -> None:
    with pytest.raises(SendFailed, match="no price"):
        orchestrator.call("billing", Quote(number=1, how="fails"), timeout_s=5, fallback=[Stale(60)])
    with pytest.raises(UnknownAgent, match="nobody"):
        orchestrator.call("billing", Quote(number=1, how="fails"), timeout_s=5, fallback=[Ask("nobody"), Value(1)])


def test_a_stale_reply_is_of_an_equal_request(orchestrator: Orchestrator) -> None:
    fallback = [Stale(max_age_s=60)]
    assert orchestrator.call("bounded", Quote(number=4), timeout_s=5, fallback=fallback) == 4
    with pytest.raises(SendFailed):
        orchestrator.call("bounded", Quote(number=5, how="fails"), timeout_s=5, fallback=fallback)
    # The breaker is open now.
    assert orchestrator.call("bounded", Quote(number=4), timeout_s=5, fallback=fallback) == 4
    with pytest.raises(CircuitOpen):
        orchestrator.call("bounded", Quote(number=4), timeout_s=5)


def test_a_durable_fallback_is_sent(orchestrator: Orchestrator) -> None:
    failing = Quote(number=3, how="fails")
    sent = orchestrator.call("billing", failing, timeout_s=5, fallback=[Send(durable=True, on_error="ignore")])
    assert isinstance(sent, FallbackDelivery)
    assert isinstance(sent.delivery.wait(timeout_s=1), Dead)
    assert orchestrator.call("billing", Quote(number=3), timeout_s=5, fallback=[Send(durable=True)]) == 6
    assert sum(row.accepted for row in orchestrator.ledger()) == 3


def test_retries_are_within_their_budget(orchestrator: Orchestrator) -> None:
    before = sum(row.accepted for row in orchestrator.ledger())
    for _ in range(100):
        with pytest.raises(SendFailed, match="no price"):
            orchestrator.call(
                "billing", Quote(number=1, how="fails"), timeout_s=5, retry=Retry(max_retries=5, backoff=AT_ONCE)
            )
        orchestrator.call("billing", Quote(number=1), timeout_s=5, retry=Retry())
    sent = sum(row.accepted for row in orchestrator.ledger()) - before
    # Ten at the start, and a tenth of the 199 calls before the last one.
    assert sent == 200 + 10 + 19
    assert call_budget.spent(call_budget.PRICE - 1) is None


def test_an_ask_is_answered_later(orchestrator: Orchestrator) -> None:
    asked = orchestrator.ask("billing", Quote(number=2), timeout_s=5)
    assert asked.reply() == 4
    assert asked.reply(timeout_s=1) == 4
    assert asked.cancel() is CancelResult.TOO_LATE
    with pytest.raises(SendFailed, match="no price"):
        orchestrator.ask("billing", Quote(number=2, how="fails"), timeout_s=5).reply()


def test_asking_many(orchestrator: Orchestrator) -> None:
    replies = orchestrator.ask_all(["billing", "bounded"], Quote(number=2), timeout_s=5)
    assert replies.results == {"billing": 4, "bounded": 2}
    assert replies.errors == {}
    assert orchestrator.ask_all(["billing", "bounded"], Quote(number=2), timeout_s=5, need=1).results
    with pytest.raises(NotEnoughReplies, match=r"needed: 2; billing: SendFailed") as caught:
        orchestrator.ask_all(["billing", "bounded"], Quote(number=2, how="fails"), timeout_s=5)
    assert isinstance(caught.value.errors["billing"], SendFailed)


@pytest.mark.parametrize("need", [0, 3, -1, True, 1.5])
def test_needs_that_are_refused(orchestrator: Orchestrator, need: Any) -> None:
    with pytest.raises(InvalidPolicy, match="need="):
        orchestrator.ask_all(["billing", "bounded"], Quote(number=2), timeout_s=5, need=need)
    with pytest.raises(InvalidPolicy, match="each agent once"):
        orchestrator.ask_all(["billing", "billing"], Quote(number=2), timeout_s=5)
    with pytest.raises(InvalidPolicy, match="recipients="):
        orchestrator.ask_all([], Quote(number=2), timeout_s=5)
    assert orchestrator.ledger() == []
