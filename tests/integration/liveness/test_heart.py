"""The heart of a worker: it speaks for a process that is at work, proves a death, and is in nobody's way."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually
from tests.support.processes import is_gone
from tests.support.worker_process import WorkerProcess

#: A lease much shorter than what runs here.
SHORT = {"BARE_OPTIONS": json.dumps({"lease_s": 1.5, "block_s": 0.2, "stuck_s": 5, "sweep_gap_s": 1.6})}
NEVER_LOST = {"BARE_OPTIONS": json.dumps({"lease_s": 60})}


def told(broker: BareBroker, w: WorkerProcess, field: str) -> str:
    return str(broker.redis.hget(broker.store.keys.incarnation(w.incarnation), field) or "")


def heart_of(w: WorkerProcess) -> psutil.Process:
    """Its process."""

    def found() -> list[psutil.Process]:
        children = psutil.Process(w.pid).children()
        return [child for child in children if any(part.endswith("heart.py") for part in child.cmdline())]

    (heart,) = eventually(found, describe=w.log)
    return heart


def deaths(broker: BareBroker) -> list[tuple[str, str]]:
    return [(f["reason"], f["by"]) for _, f in broker.redis.xrange(broker.store.keys.deaths)]


@pytest.fixture
def sweep(broker: BareBroker) -> Callable[[], tuple[str, ...]]:
    """One sweep; whom it found dead. Closed connections and silence count from the beginning."""
    sweeper = broker.store.sweeper()
    sweeper.sweep("test")
    broker.redis.hset(broker.store.keys.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    return lambda: sweeper.sweep("test").dead


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent"])
def test_a_handler_that_holds_the_interpreter_longer_than_a_lease_runs_once(broker: BareBroker, pool: str) -> None:
    """Regression: it ran three times, each to its end, and was then poison."""
    with (
        worker(broker, name="a", pool=pool, environment=SHORT) as w,
        worker(broker, name="b", queues="other", environment=SHORT) as sweeping,
    ):
        eventually(lambda: told(broker, w, "heart"), describe=w.log)
        broker.send("compute", "c")
        eventually(lambda: broker.done() == {"c": 1}, timeout_s=60, describe=w.log)
        eventually(lambda: broker.ledger().handled == 1, describe=w.log)
        assert " declared dead: " not in sweeping.log()
        assert broker.began() == ["c"]
        row = broker.ledger()
        assert (row.dead, row.redelivered, row.duplicated, row.lost) == (0, 0, 0, 0)
        assert deaths(broker) == []


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_worker_that_does_not_run_is_lost_in_spite_of_its_heart(
    broker: BareBroker, sweep: Callable[[], tuple[str, ...]], how: str
) -> None:
    with worker(broker, pool="threads", environment=SHORT) as w:
        eventually(lambda: told(broker, w, "heart"), describe=w.log)
        incarnation = w.incarnation
        if how == "hung":
            broker.send("hang", "h")
            eventually(lambda: broker.began() == ["h"], describe=w.log)
        else:
            w.signal(signal.SIGSTOP)
        eventually(lambda: incarnation in sweep(), timeout_s=50, describe=w.log)
        assert deaths(broker)[0] == ("lost", "test")
        w.signal(signal.SIGCONT)


def kill_connection(broker: BareBroker, w: WorkerProcess, which: str) -> str:
    """The worker's own (``client``) or its heart's; what it was."""
    known = told(broker, w, which)
    broker.redis.execute_command("CLIENT", "KILL", "ID", known.split()[0])
    return known


def begun(broker: BareBroker, times: int) -> Callable[[], bool]:
    return lambda: len(broker.began()) >= times


@pytest.mark.parametrize("heart", [True, False])
def test_connections_that_are_killed_one_by_one_or_together_are_no_death(
    broker: BareBroker, sweep: Callable[[], tuple[str, ...]], heart: bool
) -> None:
    """Regression: with the heartbeat's connection closed, 0.1 s lay between a heartbeat and the verdict."""
    options = {"BARE_OPTIONS": json.dumps({"lease_s": 60, "heart": heart})}
    with worker(broker, pool="gevent", environment=options) as w:
        eventually(lambda: told(broker, w, "heart" if heart else "client"), describe=w.log)

        def is_another(which: str, known: str) -> bool:
            assert sweep() == ()
            return told(broker, w, which) != known

        for kinds in ([["client"], ["heart"], ["client", "heart"]] if heart else [["client"]]) * 4:
            for which, known in [(which, kill_connection(broker, w, which)) for which in kinds]:
                eventually(functools.partial(is_another, which, known), describe=w.log)
        assert deaths(broker) == []


def test_a_connection_that_closes_while_the_interpreter_is_held_is_no_death(
    broker: BareBroker, sweep: Callable[[], tuple[str, ...]]
) -> None:
    with worker(broker, pool="threads", environment=NEVER_LOST) as w:
        eventually(lambda: told(broker, w, "heart"), describe=w.log)
        broker.send("freeze", *[f"f{i}" for i in range(4)])

        def has_ended(times: int) -> bool:
            assert sweep() == ()
            return len(broker.done()) >= times

        for number in range(1, 5):
            eventually(begun(broker, number), describe=w.log)
            kill_connection(broker, w, "client")
            eventually(functools.partial(has_ended, number), describe=w.log)
        eventually(lambda: broker.ledger().handled == 4, describe=w.log)
        assert deaths(broker) == []
        assert broker.ledger().redelivered == 0


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork", "gevent"])
def test_a_killed_worker_is_proved_dead_by_its_heart_which_ends_too(broker: BareBroker, pool: str) -> None:
    with worker(broker, name="b", queues="other"), worker(broker, name="a", pool=pool, environment=NEVER_LOST) as w:
        eventually(lambda: told(broker, w, "heart"), describe=w.log)
        heart = heart_of(w)
        broker.send("hold", "h")
        eventually(lambda: broker.began() == ["h"], describe=w.log)
        w.kill()
        eventually(lambda: deaths(broker) == [("killed", "heart")], describe=w.log)
        eventually(lambda: broker.ledger().ready == 1, describe=w.log)
        eventually(lambda: is_gone(heart.pid))
    assert broker.ledger().restarted == 1


def test_the_heart_is_not_of_the_workers_group_shows_no_secret_and_holds_no_output(broker: BareBroker) -> None:
    with worker(broker, pool="prefork") as w:
        heart = heart_of(w)
        eventually(lambda: os.getsid(heart.pid) == heart.pid)
        assert broker.url.partition("//")[2] not in " ".join(heart.cmdline())
        opened = {f"/proc/{heart.pid}/fd/{name}" for name in os.listdir(f"/proc/{heart.pid}/fd")}  # noqa: PTH208
        targets = {path.rpartition("/")[2]: os.readlink(path) for path in opened}  # noqa: PTH115
        assert targets["1"] == os.devnull
        # Its own, which the worker reads; not the worker's.
        assert targets["2"].startswith("pipe:")
        assert targets["2"] != os.readlink(f"/proc/{w.pid}/fd/2")  # noqa: PTH115
        assert not any(target.endswith("/log") for target in targets.values())
        # A stop signal that reaches it all the same (a control group's) does not end it before its worker.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            heart.send_signal(number)
        eventually(lambda: told(broker, w, "heart"), describe=w.log)
        assert not is_gone(heart.pid)
        assert w.stop() == 0
        assert is_gone(heart.pid)
    assert [reason for reason, _ in deaths(broker)] == ["drained"]


def test_a_heart_that_is_killed_is_no_death_and_another_one_takes_its_place(
    broker: BareBroker, sweep: Callable[[], tuple[str, ...]]
) -> None:
    with worker(broker, environment=NEVER_LOST) as w:
        first, incarnation = heart_of(w), w.incarnation
        first.kill()
        eventually(lambda: sweep() or is_gone(first.pid), describe=w.log)
        second = eventually(lambda: heart_if_other(w, first.pid), timeout_s=20, describe=w.log)
        assert second != first.pid
        assert w.incarnation == incarnation
        assert deaths(broker) == []


def heart_if_other(w: WorkerProcess, pid: int) -> int:
    children = psutil.Process(w.pid).children()
    hearts = [c.pid for c in children if c.pid != pid and "heart.py" in " ".join(c.cmdline())]
    return hearts[0] if hearts else 0


def test_without_a_heart_a_worker_has_no_second_process(broker: BareBroker) -> None:
    off: dict[str, Any] = {"BARE_OPTIONS": '{"heart": false}'}
    with worker(broker, environment=off) as w:
        broker.send("note", "n")
        eventually(lambda: broker.done() == {"n": 1}, describe=w.log)
        assert told(broker, w, "heart") == ""
        assert psutil.Process(w.pid).children() == []
