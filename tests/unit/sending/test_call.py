"""What a call makes of a reply that comes at the last moment, and of what it is told to fall back to."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

import pytest

from orchestrator import (
    Agent,
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
    handles,
)
from orchestrator.core.calls import call_budget
from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.errors import (
    AgentDown,
    CircuitOpen,
    DeliveryTimeout,
    InvalidPolicy,
    SendFailed,
    UnknownAgent,
    UnknownMessage,
)
from orchestrator.sending.backend import SendResult
from orchestrator.sending.delivery import Delivery, Found
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
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


def test_a_failure_by_the_deadline_is_the_error_that_a_caller_finds_itself() -> None:
    ends: dict[CancelResult, Outcome] = {
        CancelResult.TOO_LATE: Dead("deadline passed", "HandlerTimeout: late"),
        CancelResult.CANCELLED: Cancelled("sender"),
    }
    texts = []
    for says, outcome in ends.items():
        with pytest.raises(DeliveryTimeout) as late:
            Late(says, outcome).asked().reply()
        texts.append(str(late.value))
    assert texts == ["request d1 has no reply after 0.01 s"] * 2


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


class Dies(DiesAfterTheFirst):
    """A backend whose worker dies with each request."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self._outcome = outcome

    def send(self, message: OutgoingMessage) -> SendResult:
        self.sent.append(message)
        return SendResult(message.id)

    def read(self, until: float) -> list[tuple[str, Outcome]]:
        return [(self.sent[-1].id, self._outcome)]


@pytest.mark.parametrize(
    ("on_death", "outcome", "never", "sent"),
    [
        ("fail", Dead("worker died", "WorkerLost: its worker died while it had it"), (), 1),
        ("fail", Dead("non-retryable error", "WorkerLostError: exited prematurely"), (), 1),
        ("fail", Dead("retries exhausted", "ValueError: no price"), (), 3),
        ("again", Dead("poison", "its worker died 3 times while running it"), (), 3),
        ("again", Dead("poison", "its worker died 3 times while running it"), ("WorkerLost",), 1),
        ("again", Dead("non-retryable error", "WorkerLostError: exited prematurely"), (), 3),
    ],
)
def test_what_must_not_run_again_is_not_retried_after_a_death(
    monkeypatch: pytest.MonkeyPatch, on_death: Any, outcome: Dead, never: tuple[str, ...], sent: int
) -> None:
    orchestrator = calls_app.make(NO_REDIS, eager=True)
    backend = Dies(outcome)
    monkeypatch.setattr(orchestrator.runtime.caller, "_backend", lambda: backend)
    retry = Retry(max_retries=2, backoff=AT_ONCE, never=never)
    with pytest.raises(SendFailed):
        orchestrator.call("billing", Quote(number=1), timeout_s=5, retry=retry, on_death=on_death)
    assert len(backend.sent) == sent


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
        ({"on_death": "fail", "hedge": Hedge(after_s=1)}, "hedge=.*None with on_death='fail': a copy runs"),
        (
            {"on_death": "fail", "fallback": True},
            "fallback=True.*Stale and Value with on_death='fail': a Send",
        ),
        ({"on_death": "fail", "fallback": {"timeout_s": 5}}, "fallback=.*on_death='fail'"),
        ({"on_death": "fail", "fallback": [Send(durable=True)]}, "fallback=.*on_death='fail'"),
        ({"on_death": "fail", "fallback": [Ask("bounded"), Send()]}, "fallback=.*on_death='fail'"),
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
        lambda: Ask(7),
        lambda: Ask(""),
        lambda: Ask(None),
        lambda: Ask(Quote),
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


@pytest.mark.parametrize(
    ("fallback", "error", "text"),
    [
        ([Ask("ghost"), Value(3)], UnknownAgent, "ghost"),
        ([Stale(60), Ask("shop"), Value(3)], UnknownMessage, "agent 'shop' does not handle 'Quote'"),
        ([Ask("bounded"), Send(countdown_s=60, deadline_s=5)], InvalidPolicy, "deadline_s=5"),
    ],
    ids=["unknown agent", "unknown message", "a send that cannot be"],
)
def test_a_fallback_that_cannot_be_tried_is_refused_before_anything_is_sent(
    orchestrator: Orchestrator, fallback: list[Any], error: type[Exception], text: str
) -> None:
    for how in ("", "fails"):
        with pytest.raises(error, match=text):
            orchestrator.call("billing", Quote(number=1, how=how), timeout_s=5, fallback=fallback)
    assert orchestrator.ledger() == []


def test_agents_are_no_fallback_of_a_task(orchestrator: Orchestrator) -> None:
    @orchestrator.app.task(name="tests.nothing", shared=False)
    def nothing() -> None:
        pass

    for fallback in (Ask("billing"), Stale(60)):
        with pytest.raises(InvalidPolicy, match="Value or Send for a task"):
            orchestrator.call(nothing.s(), timeout_s=5, fallback=[fallback])
    assert orchestrator.ledger() == []


def test_a_fallback_whose_agent_has_vanished_gives_way_to_the_next(orchestrator: Orchestrator) -> None:
    directory = orchestrator.runtime.directory

    class Vanishing(Agent):
        name = "vanishing"

        @handles(Quote)
        def quote(self, message: Quote) -> None:
            del directory.declared["bounded"]
            directory._addresses.clear()
            raise ValueError("billing's own error")

    orchestrator.host(Vanishing)
    bounded = directory.declared["bounded"]
    quote = Quote(number=1)
    assert orchestrator.call("vanishing", quote, timeout_s=5, fallback=[Ask("bounded"), Value(3)]) == 3
    directory.declared["bounded"] = bounded
    with pytest.raises(SendFailed, match="billing's own error") as failed:
        orchestrator.call("vanishing", quote, timeout_s=5, fallback=[Ask("bounded")])
    assert "fallback Ask(agent='bounded'): UnknownAgent: unknown agent 'bounded'" in failed.value.__notes__[0]


def test_a_send_is_shown_as_it_was_written() -> None:
    assert repr(Send(durable=True, retry=None, deadline_s=5)) == "Send(durable=True, retry=None, deadline_s=5)"
    assert repr(Send(metadata={"token": "t"})) == "Send(metadata={'token': **redacted**})"
    assert repr(Send()) == "Send()"
    assert Send(deadline_s=5) == Send(deadline_s=5)
    assert pickle.loads(pickle.dumps(Send(deadline_s=5))) == Send(deadline_s=5)


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
    with pytest.raises(NotEnoughReplies, match=r"needed: 2; billing: SendFailed: delivery .*no price") as caught:
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
