"""A death without a proof, or one that the process itself has disproved, makes no message poison."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest
from billiard.exceptions import WorkerLostError

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import GROUP
from orchestrator.transport.endings.end_for_celery import error_of
from orchestrator.transport.endings.stream import Ending
from orchestrator.transport.liveness.isolation import is_last_chance
from orchestrator.transport.mailbox_entry import read_death_history
from orchestrator.transport.redis import commands
from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

QUEUE = "celery"
MAX_DEATHS = 3

#: A lease that is over soon. The sweep finds what is silent for longer.
SHORT = {"BARE_OPTIONS": json.dumps({"lease_s": 1.5, "block_s": 0.2, "stuck_s": 5, "sweep_gap_s": 1.6, "heart": False})}


class ProcessIncarnations:
    """Incarnations that exist in Redis only: each claims the message, runs it, and ends."""

    def __init__(self, broker: BareBroker) -> None:
        self._broker = broker
        self._store = broker.store
        self.levels = ["returned-0", "0"]
        broker.redis.sadd(broker.store.keys.queues, QUEUE)
        broker.send("note", "m", queue=QUEUE)

    def claim(self) -> tuple[str, str, bytes]:
        """An incarnation that has claimed the message and started it; its entry, and the message's past."""
        k, run = self._store.keys, self._store.run
        raw, _ = run(*commands.register(k, "w:1", {"queues": json.dumps([QUEUE])}))
        _, at, entry, _, past = run(*commands.claim(k, [QUEUE], self.levels, raw, 1, leased=True))
        stream = k.stream(QUEUE, self.levels[at - 4])
        self._broker.redis.xclaim(stream, GROUP, raw, 0, [entry], retrycount=2, justid=True)
        return raw.decode(), f"{entry.decode()}@{stream}", past

    def end(self, incarnation: str, reason: str) -> list[int]:
        """Fence it and hand its message on; entries moved, whether more are there, dead letters."""
        k, run = self._store.keys, self._store.run
        assert run(*commands.fence(k, incarnation, reason, "test"))
        answer: list[int] = run(
            *commands.reclaim(
                k,
                incarnation,
                self.levels,
                max_deaths=MAX_DEATHS,
                ttl_ms=60_000,
                batch=200,
                linger_ms=to_ms(60),
                death_hooks_done=True,
            )
        )
        return answer

    def disprove(self, incarnation: str) -> None:
        """As its process does when it learns that it was declared dead."""
        k = self._store.keys
        self._store.run(*commands.disprove_death(k, incarnation, {"incarnation": incarnation}, days=30))

    def lose_child(self, incarnation: str, tag: str) -> bytes:
        """A pool process of this incarnation dies of the message."""
        k, (entry, _, stream) = self._store.keys, tag.partition("@")
        call = commands.requeue_held(
            k, QUEUE, stream, [entry], max_deaths=MAX_DEATHS, ttl_ms=60_000, by=incarnation, reason="killed"
        )
        (said,) = self._store.run(*call)
        return bytes(said)


@pytest.fixture
def holders(broker: BareBroker) -> ProcessIncarnations:
    return ProcessIncarnations(broker)


@pytest.mark.parametrize("reason", ["lost", "stuck"])
def test_a_message_that_loses_every_worker_is_isolated_and_ends_as_no_poison(
    broker: BareBroker, holders: ProcessIncarnations, reason: str
) -> None:
    for number in range(10):
        incarnation, _, past = holders.claim()
        behind = read_death_history(past)
        assert (behind.deaths, behind.counted, behind.unattributed) == (number, 0, number)
        isolated = is_last_chance(deaths=behind.counted, unattributed_deaths=behind.unattributed, max_deaths=MAX_DEATHS)
        assert isolated is (number >= 2)
        assert holders.end(incarnation, reason) == [1, 0, int(number == 9)]
    (letter,) = broker.letters()
    assert json.loads(letter["letter"])["reason"] == "workers lost"
    row = broker.ledger(QUEUE)
    assert (row.dead, row.restarted, row.lost) == (1, 9, 0)
    ((_, told),) = broker.redis.xrange(broker.store.keys.endings)
    assert told["e"] == "WorkerLostError"


def test_a_worker_that_was_lost_is_celerys_own_error() -> None:
    error = error_of(Ending("1-0", b"{}", QUEUE, "FAILURE", "WorkerLostError", "why"))
    assert type(error) is WorkerLostError


def test_deaths_that_were_disproved_convict_nobody(broker: BareBroker, holders: ProcessIncarnations) -> None:
    for _ in range(4):
        incarnation, _, _ = holders.claim()
        assert holders.end(incarnation, "killed")[2] == 0
        holders.disprove(incarnation)
    for number in range(MAX_DEATHS):
        incarnation, _, past = holders.claim()
        assert read_death_history(past).deaths == 4 + number
        assert holders.end(incarnation, "killed")[2] == int(number == MAX_DEATHS - 1)
    (letter,) = broker.letters()
    told = json.loads(letter["letter"])
    assert (told["reason"], told["error"]["message"]) == ("poison", "its worker died 3 times while running it")
    assert [death.get("disproved", False) for death in json.loads(letter["d"])] == [True] * 4 + [False] * 3


def test_the_death_of_a_pool_process_counts_though_its_worker_was_wrongly_declared_dead(
    broker: BareBroker, holders: ProcessIncarnations
) -> None:
    for _ in range(2):
        incarnation, tag, _ = holders.claim()
        assert holders.lose_child(incarnation, tag) == b"returned"
        holders.disprove(incarnation)
    incarnation, tag, _ = holders.claim()
    assert holders.lose_child(incarnation, tag) == b"poison"


def test_a_message_whose_pool_process_dies_last_is_no_poison_either(
    broker: BareBroker, holders: ProcessIncarnations, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        incarnation, _, _ = holders.claim()
        assert holders.end(incarnation, "killed")[2] == 0, number
        holders.disprove(incarnation)
    incarnation, tag, _ = holders.claim()
    said = holders.lose_child(incarnation, tag)
    assert said == b"workers lost"
    (letter,) = broker.letters()
    why = json.loads(letter["letter"])["error"]["message"]
    (line,) = [record.getMessage() for record in caplog.records if "dead letter " in record.getMessage()]
    assert f" in {QUEUE}: workers lost: {why}; message " in line


def is_declared_dead_while_it_runs(broker: BareBroker, w: WorkerProcess, times: int) -> None:
    sweeper = broker.store.sweeper()
    eventually(lambda: len(broker.began()) == times, timeout_s=30, describe=w.log)
    incarnation = w.incarnation
    w.signal(signal.SIGSTOP)
    try:
        eventually(lambda: incarnation in sweeper.sweep("test").dead, timeout_s=30)
    finally:
        w.signal(signal.SIGCONT)


def disproved(broker: BareBroker, times: int) -> Callable[[], bool]:
    return lambda: broker.redis.zcard(broker.store.keys.disproved) == times


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_that_is_stopped_and_goes_on_convicts_nobody(broker: BareBroker, pool: str) -> None:
    """Three times in a row its lease runs out while it runs the message; each time it turns out to live."""
    broker.send("hold", "h")
    with worker(broker, pool=pool, environment=SHORT) as w:
        for number in range(1, MAX_DEATHS + 1):
            is_declared_dead_while_it_runs(broker, w, number)
            broker.go("h")
            eventually(disproved(broker, number), timeout_s=30, describe=w.log)
        broker.go("h")
        eventually(lambda: broker.ledger().handled == 1, timeout_s=30, describe=w.log)
    row = broker.ledger()
    assert (row.dead, row.handled, row.lost) == (0, 1, 0)
