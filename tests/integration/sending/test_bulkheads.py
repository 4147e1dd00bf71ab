"""Bulkheads as callers see them: the same in eager mode and on Redis, as far as one process can tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any, ClassVar

import pytest

from orchestrator import (
    Agent,
    Ask,
    Bulkhead,
    BulkheadFull,
    Context,
    DeliveryTimeout,
    Hedge,
    InvalidDeclaration,
    InvalidPolicy,
    Message,
    NotEnoughReplies,
    Orchestrator,
    Reply,
    Retry,
    Value,
    handles,
    replies,
)
from orchestrator.telemetry import attach, detach
from tests.support.eventually import eventually
from tests.support.living_agents import close, live, mail, make
from tests.support.timing import least_s


class Quote(Message):
    number: int = 0
    #: Calls its own agent before it answers.
    nested: bool = False


class Billing(Agent):
    name = "billing"
    bulkhead: ClassVar[Bulkhead | None] = Bulkhead(calls=2)

    @handles(Quote, idempotent=True)
    def quote(self, message: Quote, context: Context) -> Any:
        if message.nested:
            return context.orchestrator.call("billing", Quote(nested=message.number > 1, number=1), timeout_s=5)
        return message.number


class Patient(Billing):
    name = "patient"
    bulkhead = Bulkhead(calls=1, wait_s=0.3)


class Queue(Billing):
    name = "queue"
    bulkhead = Bulkhead(calls=1, wait_s=30)


class Open(Billing):
    name = "open"
    bulkhead = None


class Asker(Agent):
    name = "asker"

    @handles(Quote)
    def ask(self, message: Quote, context: Context) -> None:
        context.ask("billing", message, then=True, timeout_s=30)

    @replies(Quote)
    def quoted(self, reply: Reply) -> None: ...


AGENTS = (Billing, Patient, Queue, Open, Asker)


@pytest.fixture
def orchestrator(counted_url: str) -> Iterator[Orchestrator]:
    made = make(counted_url, *AGENTS)
    live(made, *[agent.name for agent in AGENTS])
    yield made
    close(made)


@pytest.fixture
def eager() -> Iterator[Orchestrator]:
    made = make("redis://127.0.0.1:1/0", *AGENTS, eager=True)
    yield made
    close(made)


def in_flight(orchestrator: Orchestrator, agent: str = "billing") -> int:
    store: Any = orchestrator.runtime.store
    count: int = store.client.zcard(store.keys.bulkhead(agent))
    return count


# -- on Redis, where nobody answers


def test_no_more_requests_are_in_flight_than_may_be(orchestrator: Orchestrator) -> None:
    seen: list[Any] = []
    attach(seen.append, "bulkhead.full")
    try:
        for _ in range(2):
            orchestrator.ask("billing", Quote(), timeout_s=30)
        began = monotonic()
        with pytest.raises(BulkheadFull, match="the bulkhead of 'billing' is full: 2 requests in flight; allowed: 2"):
            orchestrator.call("billing", Quote(), timeout_s=30)
        assert monotonic() - began < 5, "it does not wait"
    finally:
        detach(seen.append)
    assert [(event.metadata["agent"], event.measurements["in_flight"]) for event in seen] == [("billing", 2)]
    assert len(mail(orchestrator, "billing")["billing"]) == 2
    orchestrator.ask("open", Quote(), timeout_s=30)


def test_another_process_that_does_not_know_the_class_is_counted_too(orchestrator: Orchestrator) -> None:
    orchestrator.runtime.redis.announce(orchestrator.runtime.directory.entries([agent.name for agent in AGENTS]))
    other = make(orchestrator.app.conf.broker_url)
    other.ask("billing", Quote(), timeout_s=30)
    orchestrator.ask("billing", Quote(), timeout_s=30)
    for one in (other, orchestrator):
        with pytest.raises(BulkheadFull):
            one.ask("billing", Quote(), timeout_s=30)
    close(other)


def test_sends_are_not_counted_and_pass_a_full_one(orchestrator: Orchestrator) -> None:
    orchestrator.send("billing", Quote())
    for _ in range(2):
        orchestrator.ask("billing", Quote(), timeout_s=30)
    orchestrator.send("billing", Quote())
    orchestrator.send_many("billing", [Quote(), Quote()])
    orchestrator.broadcast(["billing"], Quote())
    assert in_flight(orchestrator) == 2


def test_one_more_waits_until_another_ends(orchestrator: Orchestrator) -> None:
    first = orchestrator.ask("patient", Quote(), timeout_s=30)
    began = monotonic()
    with pytest.raises(BulkheadFull, match=r"1 request in flight; allowed: 1; waited 0.3 s"):
        orchestrator.ask("patient", Quote(), timeout_s=30)
    assert monotonic() - began >= 0.3
    first.cancel()
    # One that waits for longer: what happens between two lines may take longer than a short wait.
    first = orchestrator.ask("queue", Quote(), timeout_s=30)
    accepted: list[Any] = []
    waiting = threading.Thread(target=lambda: accepted.append(orchestrator.ask("queue", Quote(), timeout_s=30)))
    waiting.start()
    eventually(lambda: in_line(orchestrator) == 1)
    first.cancel()
    waiting.join(10)
    assert len(accepted) == 1
    assert in_flight(orchestrator, "queue") == 1


def commands_while(orchestrator: Orchestrator, act: Any) -> int:
    """The script calls that Redis has run meanwhile."""
    client: Any = orchestrator.runtime.store.client
    client.config_resetstat()
    act()
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def in_line(orchestrator: Orchestrator) -> int:
    store: Any = orchestrator.runtime.store
    count: int = store.client.zcard(store.keys.bulkhead_line("queue"))
    return count


def test_those_that_wait_are_woken_in_their_order_and_do_not_ask_meanwhile(orchestrator: Orchestrator) -> None:
    held = [orchestrator.ask("queue", Quote(), timeout_s=30)]
    served: list[int] = []

    def wait(number: int) -> None:
        asked = orchestrator.ask("queue", Quote(number=number), timeout_s=30)
        served.append(number)
        held.append(asked)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda number=number: in_line(orchestrator) == number + 1)  # type: ignore[misc]
    # Two of the five look once more in half a second, at most: they sleep for a second.
    assert commands_while(orchestrator, lambda: threads[0].join(0.5)) <= 5
    for number in range(5):
        assert in_line(orchestrator) == 5 - number
        held[-1].cancel()
        eventually(lambda number=number: served == list(range(number + 1)))  # type: ignore[misc]
        eventually(lambda number=number: len(held) == number + 2)  # type: ignore[misc]
        assert in_flight(orchestrator, "queue") == 1
    for thread in threads:
        thread.join(10)
    held[-1].cancel()
    assert (in_flight(orchestrator, "queue"), in_line(orchestrator)) == (0, 0)


def test_a_request_in_flight_that_is_never_ended_keeps_nobody_waiting(orchestrator: Orchestrator) -> None:
    orchestrator.ask("queue", Quote(), timeout_s=0.2)
    took_s = least_s(lambda: orchestrator.ask("queue", Quote(), timeout_s=0.2))
    assert took_s < 0.9, "it has slept for no longer than the other had"


def test_a_place_that_nobody_comes_for_goes_to_the_next(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    first = orchestrator.ask("queue", Quote(), timeout_s=30)
    # As one that was killed while it waited.
    store.client.zadd(store.keys.bulkhead_line("queue"), {"killed": 1})
    waiting = threading.Thread(target=lambda: orchestrator.ask("queue", Quote(), timeout_s=30))
    waiting.start()
    eventually(lambda: in_line(orchestrator) == 2)
    first.cancel()
    waiting.join(10)
    assert not waiting.is_alive()
    assert in_flight(orchestrator, "queue") == 1


def test_who_has_waited_in_vain_is_in_no_line(orchestrator: Orchestrator) -> None:
    orchestrator.ask("patient", Quote(), timeout_s=30)
    with pytest.raises(BulkheadFull):
        orchestrator.ask("patient", Quote(), timeout_s=30)
    store: Any = orchestrator.runtime.store
    assert not store.client.exists(store.keys.bulkhead_line("patient"))


def test_a_request_whose_time_is_over_is_not_in_flight(orchestrator: Orchestrator) -> None:
    for _ in range(2):
        orchestrator.ask("billing", Quote(), timeout_s=0.2)
    eventually(lambda: orchestrator.ask("billing", Quote(), timeout_s=30) if _is_free(orchestrator) else None)
    assert in_flight(orchestrator) == 1


def _is_free(orchestrator: Orchestrator) -> bool:
    store: Any = orchestrator.runtime.store
    seconds, micros = store.client.time()
    return not store.client.zcount(store.keys.bulkhead("billing"), seconds * 1000 + micros // 1000, "+inf")


def test_what_is_counted_expires_with_the_last_request(orchestrator: Orchestrator) -> None:
    store: Any = orchestrator.runtime.store
    orchestrator.ask("billing", Quote(), timeout_s=30)
    orchestrator.ask("billing", Quote(), timeout_s=3)
    assert 80_000 < store.client.pttl(store.keys.bulkhead("billing")) <= 90_000


@pytest.mark.parametrize("timeout_s", [0.05, 0.2])
def test_it_is_not_waited_for_longer_than_the_call_may_take(orchestrator: Orchestrator, timeout_s: float) -> None:
    orchestrator.ask("patient", Quote(), timeout_s=30)
    with pytest.raises(BulkheadFull, match=f"waited {timeout_s:g} s"):
        orchestrator.ask("patient", Quote(), timeout_s=timeout_s)


def test_a_call_that_times_out_is_counted_no_more(orchestrator: Orchestrator) -> None:
    assert orchestrator.call("billing", Quote(), timeout_s=0.1, fallback=[Value("late")]) == "late"
    assert in_flight(orchestrator) == 0


def test_a_fallback_follows(orchestrator: Orchestrator) -> None:
    for _ in range(2):
        orchestrator.ask("billing", Quote(), timeout_s=30)
    assert orchestrator.call("billing", Quote(), timeout_s=5, fallback=[Value("busy")]) == "busy"
    orchestrator.ask("patient", Quote(), timeout_s=30)
    busy = orchestrator.call("billing", Quote(), timeout_s=5, fallback=[Ask("patient"), Value("both busy")])
    assert busy == "both busy"


def test_all_kinds_of_requests_are_counted(orchestrator: Orchestrator) -> None:
    def refused(act: Any) -> bool:
        try:
            act()
        except BulkheadFull:
            return True
        return False

    for _ in range(2):
        orchestrator.ask("billing", Quote(), timeout_s=30)
    assert refused(lambda: orchestrator.call("billing", Quote(), timeout_s=5, hedge=Hedge(after_s=0.1)))
    assert refused(lambda: orchestrator.call("billing", Quote(), timeout_s=5, retry=Retry(max_retries=0)))
    with pytest.raises(NotEnoughReplies) as errors:
        orchestrator.ask_all(["billing"], Quote(), timeout_s=5)
    assert isinstance(errors.value.errors["billing"], BulkheadFull)


def test_the_copies_of_one_request_count_once(orchestrator: Orchestrator) -> None:
    with pytest.raises(DeliveryTimeout):
        orchestrator.call("patient", Quote(), timeout_s=1.0, hedge=Hedge(after_s=0.01))
    assert len(mail(orchestrator, "patient")["patient"]) == 0
    (counts,) = [counts for counts in orchestrator.call_counts() if counts.queue == "patient"]
    assert (counts.asked, counts.hedged, counts.timeout) == (1, 1, 1)
    assert in_flight(orchestrator, "patient") == 0


# -- eager mode


def test_in_eager_mode_handlers_that_call_each_other_fill_it(eager: Orchestrator) -> None:
    assert eager.call("billing", Quote(nested=True), timeout_s=5) == 1
    assert eager.call("billing", Quote(nested=True, number=2), timeout_s=5, fallback=[Value("full")]) == "full"
    assert eager.call("billing", Quote(number=3), timeout_s=5) == 3, "all permits are back"
    eager.send("asker", Quote(number=4))


def test_in_eager_mode_the_error_is_the_same(eager: Orchestrator) -> None:
    eager.runtime.modes.eager.backend.acceptance._bulkheads._requests["billing"] = {"a": 10**12, "b": 10**12}
    with pytest.raises(BulkheadFull, match="the bulkhead of 'billing' is full: 2 requests in flight; allowed: 2"):
        eager.call("billing", Quote(), timeout_s=5)
    assert eager.ask("open", Quote(number=1), timeout_s=5).reply() == 1


# -- declarations


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"calls": 0}, "calls=0"),
        ({"calls": True}, "calls=True"),
        ({"calls": 2.5}, "calls=2.5"),
        ({"calls": 1, "wait_s": -1}, "wait_s=-1"),
        ({"calls": 1, "wait_s": 3601}, "wait_s=3601"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidPolicy, match=text):
        Bulkhead(**values)


def test_a_bulkhead_that_is_none_cannot_be_hosted(eager: Orchestrator) -> None:
    with pytest.raises(InvalidDeclaration, match=r"Wrong\.bulkhead=20; allowed: a Bulkhead"):
        eager.host(type("Wrong", (Billing,), {"name": "wrong", "bulkhead": 20}))
