"""Redis is lost at each moment of a start and of a reconnect: who needs it logs the outage, and goes on after it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from redis import Redis

from orchestrator import BrokerUnavailable, Handled
from tests.apps import failover_app
from tests.apps.failover_app import Add
from tests.support.bare_broker import BareBroker
from tests.support.beat_process import BeatProcess
from tests.support.cutting_proxy import CuttingProxy, Outage
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

#: What a process logs of an outage.
LOST = re.compile(
    r"Trying again in|Connection to broker lost|Redis is unreachable|Redis is away|is not available|no reply from Redis"
)

#: A process of Celery's takes seconds to start, and several of them start at once here.
START_S = 40.0

#: Longest pause between an outage and its line in the log: two timeouts of a reply, and a heartbeat.
LOG_S = 20.0

OUTAGES: list[Outage] = ["refused", "silent"]

#: So many writes of a worker go before the outage. With about 40 it consumes.
SOME = [3, 16, 27]
MOST = 44


def some_of(most: int) -> list[Any]:
    """All moments up to ``most``; two of three in the slow run alone."""
    return [pytest.param(writes, marks=[pytest.mark.slow] if writes % 3 else []) for writes in range(most)]


def lives_through(
    proxy: CuttingProxy,
    writes: int,
    outage: Outage,
    process: Any,
    works: Callable[[str], None],
    *,
    logs_each_attempt: bool = True,
) -> None:
    """A process that has just been started: it loses Redis in the start, and again in the reconnect."""

    def is_cut_and_logged(logged: int) -> None:
        eventually(lambda: proxy.is_cut, START_S, process.log)
        eventually(lambda: LOST.search(process.log(), logged), LOG_S, process.log)

    is_cut_and_logged(0)
    proxy.heal()
    works("after the start")
    logged = len(process.log())
    proxy.cut_after(0)
    is_cut_and_logged(logged)
    logged = len(process.log()) if logs_each_attempt else logged
    proxy.cut_after(writes, outage)
    proxy.heal()
    is_cut_and_logged(logged)
    proxy.heal()
    works("after the reconnect")


def bare_worker(redis_url: str, writes: int, outage: Outage) -> None:
    name = f"cut-{writes}"
    with ExitStack() as stack:
        broker = BareBroker(redis_url)
        stack.callback(broker.close)
        proxy = stack.enter_context(CuttingProxy(redis_url))
        environment = {
            "ORCHESTRATOR_BROKER_URL": proxy.url,
            "BARE_RECORD_URL": redis_url,
            "BARE_OPTIONS": json.dumps({"socket_timeout": 1.5, "socket_connect_timeout": 1.5}),
        }
        w = WorkerProcess("tests.apps.bare", redis_url, name=name, queues=name, environment=environment)
        stack.callback(w.close)
        proxy.cut_after(writes, outage)
        w.start(wait=False)

        def works(when: str) -> None:
            broker.send("note", f"{name} {when}", queue=name)
            eventually(lambda: f"{name} {when}" in broker.done(), START_S, w.log)

        lives_through(proxy, writes, outage, w, works)


def each(of: Callable[[str, int, Outage], None], redis_url: str, points: list[int], outage: Outage) -> None:
    """Several at a time: most of it is waiting."""
    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(of, redis_url, writes, outage) for writes in points]:
            ended.result()


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_worker_consumes_again(redis_url: str, outage: Outage) -> None:
    each(bare_worker, redis_url, SOME, outage)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_worker_consumes_again_wherever_it_was_cut(redis_url: str, outage: Outage) -> None:
    each(bare_worker, redis_url, list(range(MOST)), outage)


def worker_with_agents(redis_url: str, writes: int, outage: Outage) -> None:
    # Each in a database of its own, for all of them host the same agents.
    url = f"{redis_url.rpartition('/')[0]}/{1 + writes // 8}"
    with CuttingProxy(url) as proxy, ExitStack() as stack:
        sender = failover_app.make(url)
        stack.callback(sender.app.close)
        w = WorkerProcess(
            "tests.apps.failover_app", url, queues="adder", environment={"ORCHESTRATOR_BROKER_URL": proxy.url}
        )
        stack.callback(w.close)
        proxy.cut_after(writes, outage)
        w.start(wait=False)

        def works(_when: str) -> None:
            sent = sender.send("adder", Add(a=1, b=2), when_down="queue")
            eventually(lambda: sent.outcome() == Handled(3), START_S, w.log)

        lives_through(proxy, writes, outage, w, works)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("first", [0, 2, 4, 6])
def test_a_worker_with_agents_consumes_again(redis_url: str, outage: Outage, first: int) -> None:
    """It examines Redis, declares limits and schedules."""
    each(worker_with_agents, redis_url, list(range(first, 96, 8)), outage)


def fires(redis: Any) -> int:
    return sum(fields[b"a"] == b"fired" for _, fields in redis.xrange("orc:schedules:fires"))


def knows_that_redis_is_back(beat: BeatProcess) -> bool:
    """Until then a loss of Redis belongs to the outage before, and is not logged again."""
    log = beat.log()
    return log.rfind("Redis is back") > log.rfind("Redis is away")


@pytest.mark.parametrize(
    ("outage", "writes"),
    [
        pytest.param(outage, writes, marks=[] if (outage, writes) == ("refused", 9) else pytest.mark.slow)
        for outage in OUTAGES
        for writes in (0, 2, 4, 6, 9, 12, 16, 20, 25)
    ],
)
def test_a_beat_fires_again(redis_url: str, outage: Outage, writes: int) -> None:
    with Redis.from_url(redis_url) as redis, CuttingProxy(redis_url) as proxy:
        proxy.cut_after(writes, outage)
        with BeatProcess("tests.apps.schedules_app", proxy.url) as beat:

            def works(_when: str) -> None:
                before = fires(redis)
                eventually(lambda: fires(redis) > before, START_S, beat.log)
                eventually(lambda: knows_that_redis_is_back(beat), START_S, beat.log)

            # One line is enough for an outage, and before the first fire it is the same one.
            lives_through(proxy, writes, outage, beat, works, logs_each_attempt=False)


@pytest.fixture
def proxy(redis_url: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(redis_url) as proxy:
        yield proxy


@pytest.mark.parametrize("writes", some_of(9))
def test_a_sender_fails_with_the_cause_and_sends_again(proxy: CuttingProxy, writes: int) -> None:
    orchestrator = failover_app.make(proxy.url)

    def send() -> None:
        orchestrator.send("adder", Add(a=1, b=2), when_down="queue")

    proxy.cut_after(writes)
    with contextlib.suppress(BrokerUnavailable):
        while not proxy.is_cut:
            send()
    with pytest.raises(BrokerUnavailable, match="is not available"):
        send()
    proxy.heal()
    send()
    orchestrator.app.close()


@pytest.mark.parametrize("writes", some_of(12))
def test_a_session_is_refused_or_keeps_its_lease(
    proxy: CuttingProxy, redis_url: str, caplog: pytest.LogCaptureFixture, writes: int
) -> None:
    orchestrator = failover_app.make(proxy.url)
    leases = orchestrator.runtime.store.keys.leases
    proxy.cut_after(writes)
    with contextlib.suppress(BrokerUnavailable), orchestrator.monitors.session() as session:
        eventually(lambda: proxy.is_cut)
        eventually(lambda: f"heartbeat of {session.id} not sent: Redis is unreachable" in caplog.text)
        proxy.heal()
        eventually(lambda: f"heartbeats of {session.id} reach Redis again" in caplog.text)
    proxy.heal()
    with Redis.from_url(redis_url) as redis:
        with orchestrator.monitors.session() as session:
            began = redis.zscore(leases, session.id) or 0
            eventually(lambda: (redis.zscore(leases, session.id) or 0) > began > 0)
        assert redis.zscore(leases, session.id) is None
    orchestrator.app.close()
