"""What a handler sends and calls inherits what is left of its own time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import (
    Agent,
    Context,
    DeadlinePassed,
    FallbackDelivery,
    InvalidPolicy,
    Message,
    Orchestrator,
    OrchestratorError,
    handles,
)
from orchestrator.core.deliveries.attempt_limits import CURRENT, AttemptLimits, earlier
from orchestrator.sending.messages.agent_messages import build_agent_message
from orchestrator.sending.send_options import check_options
from tests.apps import agents_app
from tests.support.cluster import NO_REDIS

DEADLINES = st.none() | st.floats(0.001, 1e6)


@contextmanager
def within(left_s: float, deadline_left_s: float | None = None) -> Iterator[AttemptLimits]:
    """As in a handler with this much time left."""
    deadline_at_s = None if deadline_left_s is None else time() + deadline_left_s
    limits = AttemptLimits(monotonic() + left_s, deadline_at_s)
    token = CURRENT.set(limits)
    try:
        yield limits
    finally:
        CURRENT.reset(token)


@pytest.fixture(scope="module")
def orchestrator() -> Orchestrator:
    return agents_app.make(NO_REDIS, eager=True)


@given(st.lists(DEADLINES, min_size=1, max_size=6))
def test_an_inherited_deadline_never_grows(own: list[float | None]) -> None:
    inherited: list[float | None] = [None]
    for deadline_at_s in own:
        inherited.append(earlier(deadline_at_s, inherited[-1]))
    # Without a deadline, it is later than any.
    known = [float("inf") if at_s is None else at_s for at_s in inherited]
    assert known == sorted(known, reverse=True)
    assert known[-1] == min(float("inf") if at_s is None else at_s for at_s in own)


class Hop(Message):
    """Is sent on with the rest of the deadlines."""

    deadlines: list[float | None]


class Chain(Agent):
    name = "chain"
    met: ClassVar[list[float | None]] = []

    @handles(Hop)
    def hop(self, message: Hop, context: Context) -> None:
        limits = CURRENT.get()
        self.met.append(None if limits is None else limits.deadline_at_s)
        if message.deadlines:
            first, *rest = message.deadlines
            context.orchestrator.send(
                "chain", Hop(deadlines=rest), deadline_s=first, deadline="inherit", on_error="raise"
            )


@pytest.fixture(scope="module")
def chain() -> Orchestrator:
    made = agents_app.make(NO_REDIS, eager=True, hosts=False)
    made.host(Chain)
    return made


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(60, 1e6), max_size=5))
def test_no_message_down_a_chain_of_handlers_has_a_later_deadline(
    chain: Orchestrator, deadlines: list[float | None]
) -> None:
    Chain.met.clear()
    chain.send("chain", Hop(deadlines=deadlines), deadline_s=1000, on_error="raise")
    assert len(Chain.met) == len(deadlines) + 1
    absolute = [at_s for at_s in Chain.met if at_s is not None]
    assert len(absolute) == len(Chain.met)
    assert absolute == sorted(absolute, reverse=True)


def deadline_left_s(orchestrator: Orchestrator, **options: Any) -> float | None:
    directory = orchestrator.runtime.directory
    checked = check_options(options)  # type: ignore[arg-type]
    at_s = build_agent_message(directory, "worker", agents_app.Add(a=1, b=2), checked).supervision.deadline_at_s
    return None if at_s is None else at_s - time()


def test_a_send_inherits_only_if_it_says_so(orchestrator: Orchestrator) -> None:
    with within(5, deadline_left_s=30):
        assert deadline_left_s(orchestrator) is None
        assert deadline_left_s(orchestrator, deadline="inherit") == pytest.approx(30, abs=1)
        assert deadline_left_s(orchestrator, deadline="inherit", deadline_s=10) == pytest.approx(10, abs=1)
        assert deadline_left_s(orchestrator, deadline="inherit", deadline_s=50) == pytest.approx(30, abs=1)
        assert deadline_left_s(orchestrator, deadline_s=50) == pytest.approx(50, abs=1)


def test_where_there_is_nothing_to_inherit_a_send_has_its_own_deadline(orchestrator: Orchestrator) -> None:
    assert deadline_left_s(orchestrator, deadline="inherit") is None
    with within(5):
        # The attempt has a timeout, which is no deadline of what it sends.
        assert deadline_left_s(orchestrator, deadline="inherit") is None
        assert deadline_left_s(orchestrator, deadline="inherit", deadline_s=10) == pytest.approx(10, abs=1)


def test_nothing_is_sent_after_the_inherited_deadline(orchestrator: Orchestrator) -> None:
    before = orchestrator.ledger()
    with within(5, deadline_left_s=-1), pytest.raises(DeadlinePassed, match=r"worker\.Add"):
        orchestrator.send("worker", agents_app.Add(a=1, b=2), deadline="inherit")
    assert orchestrator.ledger() == before


def test_what_has_less_than_a_millisecond_left_is_not_sent(orchestrator: Orchestrator) -> None:
    before = orchestrator.ledger()
    with within(5, deadline_left_s=0.0005), pytest.raises(DeadlinePassed):
        orchestrator.send("worker", agents_app.Add(a=1, b=2), deadline="inherit")
    with within(0.0005), pytest.raises(DeadlinePassed):
        orchestrator.call("worker", agents_app.Add(a=1, b=2), timeout_s=60)
    assert orchestrator.ledger() == before


def test_a_countdown_past_the_inherited_deadline_is_refused_with_its_origin(orchestrator: Orchestrator) -> None:
    with within(5, deadline_left_s=3), pytest.raises(InvalidPolicy, match="said by what the sending handler handles"):
        orchestrator.send("worker", agents_app.Add(a=1, b=2), deadline="inherit", countdown_s=9)


@pytest.mark.parametrize("deadline", ["own", 5, True, ""])
def test_another_word_is_refused(orchestrator: Orchestrator, deadline: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"deadline=.*'inherit'"):
        orchestrator.send("worker", agents_app.Add(a=1, b=2), deadline=deadline)


def test_many_and_broadcast_messages_inherit_too(orchestrator: Orchestrator) -> None:
    with within(5, deadline_left_s=-1):
        with pytest.raises(DeadlinePassed):
            orchestrator.send_many("worker", [agents_app.Add(a=1, b=2)], deadline="inherit")
        with pytest.raises(DeadlinePassed):
            orchestrator.broadcast(["worker"], agents_app.Add(a=1, b=2), deadline="inherit")
        with pytest.raises(DeadlinePassed):
            orchestrator.send(orchestrator.app.tasks["plain.add"].s(1, 2), deadline="inherit")


def test_a_call_asks_for_no_more_than_the_time_that_is_left(orchestrator: Orchestrator) -> None:
    with within(7, deadline_left_s=100):
        left_s, _ = orchestrator.call("worker", agents_app.TimeLeft(), timeout_s=60)
        assert 0 < left_s <= 7
        left_s, _ = orchestrator.call("worker", agents_app.TimeLeft(), timeout_s=2)
        assert 0 < left_s <= 2


def test_a_call_without_time_left_sends_nothing_or_its_fallback(orchestrator: Orchestrator) -> None:
    before = orchestrator.ledger()
    with within(0), pytest.raises(DeadlinePassed):
        orchestrator.call("worker", agents_app.Add(a=1, b=2), timeout_s=60)
    assert orchestrator.ledger() == before
    with within(0):
        later = orchestrator.call("worker", agents_app.Add(a=1, b=2), timeout_s=60, fallback=True)
    assert isinstance(later, FallbackDelivery)
    assert isinstance(later.error, DeadlinePassed)
    assert later.delivery.wait(timeout_s=1).result == 3  # type: ignore[union-attr]


def test_a_message_without_limits_does_not_see_those_around_it(orchestrator: Orchestrator) -> None:
    with within(7, deadline_left_s=7) as limits:
        outcome: Any = orchestrator.send("worker", agents_app.TimeLeft()).wait(timeout_s=1)
        assert outcome.result == [None, None]
        assert CURRENT.get() is limits


def test_the_time_left_is_what_the_context_was_made_with() -> None:
    made = Context("id", "billing", 1, "worker", False, ends_at_s=monotonic() + 5)
    left_s = made.remaining_s()
    assert left_s is not None
    assert 4 < left_s <= 5
    assert Context("id", "billing", 1, "worker", False, ends_at_s=monotonic() - 5).remaining_s() == 0
    assert Context("id", "billing", 1, "worker", False).remaining_s() is None


def test_a_failing_handler_leaves_no_limits_behind(orchestrator: Orchestrator) -> None:
    orchestrator.send("worker", agents_app.Broken(), timeout_s=5, on_error="ignore")
    assert CURRENT.get() is None
    assert issubclass(DeadlinePassed, OrchestratorError)
