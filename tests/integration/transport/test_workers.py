"""The transport alone, with real workers that are really killed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually


def test_a_message_that_kills_once_is_handled_the_second_time(broker: BareBroker) -> None:
    broker.send("once_deadly", "x")
    with worker(broker, pool="prefork") as w:
        eventually(lambda: broker.done() == {"x": 1}, describe=w.log)
        eventually(lambda: broker.ledger().handled == 1)
    assert broker.ledger().restarted == 1


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_task_that_leaves_the_interpreter_counts_as_a_death_and_is_settled(broker: BareBroker, pool: str) -> None:
    broker.send("leaves_once", "x")
    broker.send("leaves", "z")
    broker.send("note", "y")
    with worker(broker, pool=pool) as w:
        eventually(lambda: broker.done() == {"x": 1, "y": 1}, timeout_s=40, describe=w.log)
        eventually(lambda: broker.ledger().pending == 0, timeout_s=40, describe=w.log)
        assert w.stop() == 0
    row = broker.ledger()
    assert (row.handled, row.dead, row.lost) == (2, 1, 0)
    assert [name for name in broker.began() if name != "y"].count("z") == 3


def test_rubbish_in_the_channel_of_remote_control_does_not_part_a_worker_from_its_broker(broker: BareBroker) -> None:
    channel = f"/{broker.redis.connection_pool.connection_kwargs['db']}.celery.pidbox"
    with worker(broker, pool="threads") as w:
        eventually(lambda: broker.app.control.ping(timeout=1, limit=1), timeout_s=40, describe=w.log)
        for rubbish in ("", "{}", "[]", "null", '"x"', '{"properties": 1}', '{"body": "x", "properties": {}}'):
            assert broker.redis.publish(channel, rubbish) == 1
        assert broker.app.control.ping(timeout=20, limit=1), w.log()
        broker.send("note", "x")
        eventually(lambda: broker.done() == {"x": 1}, timeout_s=40, describe=w.log)
        assert "Connection to broker lost" not in w.log()
        assert w.log().count("malformed message on") >= 6


def test_without_prefetching_only_what_runs_is_held(broker: BareBroker) -> None:
    """Regression: as many were claimed as the prefetch limit allows, and no other worker could have them."""
    broker.send("hold", "h0", "h1", "h2")
    with worker(broker, pool="threads", concurrency=1, arguments=("--disable-prefetch",)) as w:
        eventually(lambda: broker.began() == ["h0"], describe=w.log)
        # It answers only once it has been round its event loop again.
        broker.app.control.inspect(timeout=20, limit=1).ping()
        row = broker.ledger()
        assert (row.held, row.ready) == (1, 2)
        broker.go("h0", "h1", "h2")
        eventually(lambda: broker.ledger().handled == 3, describe=w.log)


def test_a_month_ahead_does_not_come_back(broker: BareBroker) -> None:
    with worker(broker) as w:
        broker.send("note", "far", countdown=30 * 24 * 3600)
        broker.send("note", "near")
        eventually(lambda: broker.done() == {"near": 1}, describe=w.log)
        eventually(lambda: broker.ledger().handled == 1)
        row = broker.ledger()
        assert (row.delayed, row.held, row.lost) == (1, 0, 0)


def test_early_acks_are_settled_before_the_task_runs(broker: BareBroker) -> None:
    with worker(broker, queues="early") as w:
        broker.send("early", "e", queue="early")
        eventually(lambda: broker.ledger("early").handled == 1, describe=w.log)


def test_urgent_messages_come_first(broker: BareBroker) -> None:
    broker.send("note", "late", priority=9)
    broker.send("note", "middle", priority=5)
    broker.send("note", "first", priority=0)
    with worker(broker, environment={"BARE_PREFETCH": "1"}) as w:
        eventually(lambda: len(broker.done()) == 3, describe=w.log)
    assert broker.began() == ["first", "middle", "late"]


def test_no_child_of_a_killed_worker_lingers(broker: BareBroker) -> None:
    import psutil

    with worker(broker, pool="prefork", concurrency=2) as w:
        children = [child.pid for child in psutil.Process(w.pid).children(recursive=True)]
        assert children
        os.kill(w.pid, signal.SIGKILL)
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in children))


def test_an_early_acknowledgement_leaves_before_the_task_begins(broker: BareBroker) -> None:
    """Regression: it waited for the event loop, which a solo pool's task holds up, and so never left."""
    broker.send("early_deadly", "e")
    with worker(broker, name="a") as a:
        eventually(lambda: not a.is_running, describe=a.log)
        assert broker.began() == ["e"]
        with worker(broker, name="b") as b:
            eventually(lambda: broker.redis.exists(broker.store.keys.deaths), timeout_s=20, describe=b.log)
            broker.send("note", "next")
            eventually(lambda: broker.done() == {"next": 1}, describe=b.log)
            eventually(lambda: broker.ledger().pending == 0, describe=b.log)
    assert broker.began() == ["e", "next"]
    row = broker.ledger()
    assert (row.handled, row.lost, row.restarted) == (2, 0, 0)
