"""The line of a bulkhead: its order, and those in it that wait no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from orchestrator import Agent, Breaker, Bulkhead, BulkheadFull, CircuitOpen, Message, Orchestrator, Retry, handles
from tests.support.eventually import eventually
from tests.support.living_agents import close, live, make


class Quote(Message):
    number: int = 0


class Billing(Agent):
    name = "billing"
    retry = Retry(max_retries=0)
    bulkhead = Bulkhead(calls=1, wait_s=60)
    breaker = Breaker(failures=5)

    @handles(Quote)
    def quote(self, message: Quote) -> int:
        return message.number


class Interrupted(Exception):
    pass


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url, Billing)
    live(made, "billing")
    yield made
    close(made)


def count(orchestrator: Orchestrator, key: Callable[[Any], str]) -> int:
    store: Any = orchestrator.runtime.store
    members: int = store.client.zcard(key(store.keys))
    return members


def in_line(orchestrator: Orchestrator) -> int:
    return count(orchestrator, lambda keys: keys.bulkhead_line("billing"))


def assert_nothing_left(orchestrator: Orchestrator) -> None:
    assert count(orchestrator, lambda keys: keys.bulkhead("billing")) == 0
    assert in_line(orchestrator) == 0
    assert count(orchestrator, lambda keys: keys.bulkhead_tickets("billing")) == 0


def ask_in_process(url: str, callers: int) -> None:
    orchestrator = make(url, Billing)
    for _ in range(callers):
        threading.Thread(target=lambda: orchestrator.ask("billing", Quote(), timeout_s=60)).start()


@pytest.fixture
def waiting_process(orchestrator: Orchestrator, redis_url: str) -> Iterator[Callable[[int], Any]]:
    """Starts a process with callers that wait in the line."""
    started: list[Any] = []

    def start(callers: int) -> Any:
        before = in_line(orchestrator)
        process = multiprocessing.get_context("spawn").Process(target=ask_in_process, args=(redis_url, callers))
        process.start()
        started.append(process)
        eventually(lambda: in_line(orchestrator) == before + callers, timeout_s=60)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_places_that_time_out_go_to_the_line_in_its_order(orchestrator: Orchestrator) -> None:
    # Time enough for all to be in the line before the first place is free.
    orchestrator.ask("billing", Quote(), timeout_s=6)
    served: list[int] = []

    def wait(number: int) -> None:
        asked = orchestrator.ask("billing", Quote(number=number), timeout_s=60)
        served.append(number)
        asked.cancel()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda number=number: in_line(orchestrator) == number + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join(20)
    assert served == list(range(8))
    assert_nothing_left(orchestrator)


def test_a_newcomer_that_does_not_wait_takes_no_place_of_the_line(orchestrator: Orchestrator, redis_url: str) -> None:
    store: Any = orchestrator.runtime.store
    first = orchestrator.ask("billing", Quote(), timeout_s=60)
    waiting = threading.Thread(target=lambda: orchestrator.ask("billing", Quote(), timeout_s=60))
    waiting.start()
    eventually(lambda: in_line(orchestrator) == 1)
    # As one whose time is over.
    store.client.zadd(store.keys.bulkhead("billing"), {first.id: 1})
    hasty = make(redis_url, type("Hasty", (Billing,), {"name": "billing", "bulkhead": Bulkhead(calls=1)}))
    with pytest.raises(BulkheadFull):
        hasty.ask("billing", Quote(), timeout_s=60)
    close(hasty)
    waiting.join(10)
    assert not waiting.is_alive()


def test_killed_callers_in_the_line_keep_no_place(
    orchestrator: Orchestrator, waiting_process: Callable[[int], Any]
) -> None:
    first = orchestrator.ask("billing", Quote(), timeout_s=120)
    killed = waiting_process(6)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    accepted: list[Any] = []
    waiting = threading.Thread(target=lambda: accepted.append(orchestrator.ask("billing", Quote(), timeout_s=60)))
    waiting.start()
    eventually(lambda: in_line(orchestrator) == 7)
    began = monotonic()
    # All six have just died: together they cost what the first of them would alone, and the rest of their tickets.
    first.cancel()
    waiting.join(20)
    assert monotonic() - began < 5
    assert len(accepted) == 1
    assert (count(orchestrator, lambda keys: keys.bulkhead("billing")), in_line(orchestrator)) == (1, 0)
    accepted.pop().cancel()
    assert_nothing_left(orchestrator)


def test_a_caller_that_is_interrupted_while_it_waits_leaves_the_line(orchestrator: Orchestrator) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    first = orchestrator.ask("billing", Quote(), timeout_s=60)
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR1, interrupt)

    def signal_when_it_waits() -> None:
        eventually(lambda: in_line(orchestrator) == 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    other = threading.Thread(target=signal_when_it_waits)
    try:
        other.start()
        with pytest.raises(Interrupted):
            orchestrator.ask("billing", Quote(), timeout_s=60)
    finally:
        other.join()
        signal.signal(signal.SIGUSR1, before)
    assert in_line(orchestrator) == 0
    first.cancel()
    assert_nothing_left(orchestrator)


def test_a_caller_that_the_breaker_refuses_leaves_the_line(orchestrator: Orchestrator) -> None:
    first = orchestrator.ask("billing", Quote(), timeout_s=60)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            orchestrator.ask("billing", Quote(), timeout_s=60)
        except CircuitOpen as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: in_line(orchestrator) == 1)
    orchestrator.breakers.isolate("billing", why="a test")
    first.cancel()
    waiting.join(10)
    assert len(errors) == 1
    assert_nothing_left(orchestrator)
