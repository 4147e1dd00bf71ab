"""Whoever stops or restarts processes is no reason to blame the messages that ran in them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

DEPLOYMENTS = 3

APPS = pytest.mark.parametrize("app", ["tests.apps.bare", "tests.apps.held_app"])


def task_of(app: str, name: str) -> str:
    return name if app == "tests.apps.bare" else f"held.{name}"


def pool_process(broker: BareBroker) -> int:
    """The process in which the last task began."""
    return int(broker.redis.lrange("test:began", -1, -1)[0].split()[1])


def was_given_back(broker: BareBroker, times: int) -> Callable[[], bool]:
    return lambda: broker.ledger("celery").restarted == times


def has_begun(broker: BareBroker, times: int) -> Callable[[], bool]:
    return lambda: len(broker.began()) == times


def has_ended(worker: WorkerProcess) -> Callable[[], bool]:
    return lambda: not worker.is_running


def is_stopping(broker: BareBroker, worker: WorkerProcess) -> Callable[[], bool]:
    key = broker.store.keys.incarnation(worker.incarnation)
    return lambda: bool(broker.redis.hget(key, "stopping") == "1")


@APPS
def test_three_deployments_by_signals_to_the_whole_group_poison_nothing(broker: BareBroker, app: str) -> None:
    """What supervisord (``stopasgroup``), systemd, honcho and ``tini -g`` do."""
    broker.send(task_of(app, "hold"), "long")
    for number in range(DEPLOYMENTS):
        with worker(broker, app=app, pool="prefork", queues="celery") as w:
            eventually(has_begun(broker, number + 1), describe=w.log)
            os.killpg(w.pid, signal.SIGTERM)
            eventually(has_ended(w), timeout_s=30, describe=w.log)
            assert broker.ledger("celery").ready == 1, w.log()
            assert w.log().count("requeued: its pool process received a stop signal") == 1
            assert "Task handler raised error" not in w.log()
    with worker(broker, app=app, pool="prefork", queues="celery") as w:
        eventually(lambda: len(broker.began()) == DEPLOYMENTS + 1, describe=w.log)
        broker.go("long")
        eventually(lambda: broker.ledger("celery").handled == 1, describe=w.log)
    row = broker.ledger("celery")
    assert (row.accepted, row.dead, row.restarted, row.lost) == (1, 0, DEPLOYMENTS, 0)
    assert {death["reason"] for _, death in broker.redis.xrange(broker.store.keys.deaths)} <= {"drained", "killed"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_stop_signal_to_a_pool_process_alone_blames_nobody(broker: BareBroker, number: signal.Signals) -> None:
    broker.send("hold", "h")
    with worker(broker, pool="prefork") as w:
        eventually(lambda: broker.began() == ["h"], describe=w.log)
        os.kill(pool_process(broker), number)
        eventually(was_given_back(broker, 1), describe=w.log)
        eventually(lambda: broker.began() == ["h", "h"], describe=w.log)
        broker.go("h")
        eventually(lambda: broker.ledger().handled == 1, describe=w.log)
    assert broker.ledger().dead == 0


@pytest.mark.slow
def test_a_task_that_sends_itself_a_stop_signal_for_ever_has_an_end(broker: BareBroker) -> None:
    """Two unattributed ends, then three alone, which are on its account; the tasks beside it are not blamed."""
    bystanders = [f"n{i}" for i in range(8)]
    broker.send("nap", *bystanders[:4])
    broker.send("stops_itself", "self")
    broker.send("nap", *bystanders[4:])
    with worker(broker, pool="prefork", concurrency=2) as w:
        eventually(lambda: broker.ledger().pending == 0, timeout_s=60, describe=w.log)
        assert broker.began().count("self") == 5
        (letter,) = broker.letters()
        assert "stops_itself" in letter["m"]
    row = broker.ledger()
    assert (row.dead, row.handled, row.restarted, row.lost) == (1, 8, 4, 0)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_worker_that_is_killed_while_it_stops_blames_nobody(broker: BareBroker, pool: str) -> None:
    """A container runtime sends SIGKILL when its grace period is over, three deployments in a row."""
    broker.send("hold", "long")
    for number in range(DEPLOYMENTS):
        with worker(broker, pool=pool) as w:
            eventually(has_begun(broker, number + 1), timeout_s=20, describe=w.log)
            stopping = is_stopping(broker, w)
            w.signal(signal.SIGTERM)
            eventually(stopping, describe=w.log)
            w.kill()
    with worker(broker, pool=pool) as w:
        eventually(lambda: len(broker.began()) == DEPLOYMENTS + 1, timeout_s=20, describe=w.log)
        broker.go("long")
        eventually(lambda: broker.ledger().handled == 1, describe=w.log)
    row = broker.ledger()
    assert (row.dead, row.restarted, row.lost) == (0, DEPLOYMENTS, 0)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_restart_by_sighup_confirms_what_is_done_and_deregisters(broker: BareBroker, pool: str) -> None:
    """Regression: the last acknowledgements and the end of the incarnation were left to atexit; the exec lost them."""
    broker.send("hold", "h")
    with worker(broker, pool=pool) as w:
        before = w.incarnation
        eventually(lambda: broker.began() == ["h"], describe=w.log)
        w.signal(signal.SIGHUP)
        eventually(lambda: "Restarting celery worker" in w.log(), describe=w.log)
        broker.go("h")
        eventually(lambda: [i for i in leases(broker) if i != before], timeout_s=30, describe=w.log)
        broker.send("note", "next")
        eventually(lambda: "next" in broker.done(), timeout_s=20, describe=w.log)
        assert before not in leases(broker)
        assert [(d["incarnation"], d["reason"]) for _, d in broker.redis.xrange(broker.store.keys.deaths)] == [
            (before, "drained")
        ]
        eventually(lambda: broker.ledger().pending == 0, describe=w.log)
    assert broker.done() == {"h": 1, "next": 1}
    row = broker.ledger()
    assert (row.handled, row.duplicated, row.restarted, row.redelivered, row.lost) == (2, 0, 0, 0, 0)


def leases(broker: BareBroker) -> list[str]:
    names: list[str] = broker.redis.zrange(broker.store.keys.leases, 0, -1)
    return names
