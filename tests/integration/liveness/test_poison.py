"""A message that kills its worker is poison after three deaths; a bystander is not, in any pool."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.bare"
POOLS = ["solo", "threads", "prefork"]


def worker(broker: BareBroker, pool: str, **options: Any) -> WorkerProcess:
    return WorkerProcess(APP, broker.url, pool=pool, concurrency=4, **options)


def restarted_until_idle(w: WorkerProcess, broker: BareBroker, timeout_s: float = 60) -> None:
    """Start the worker again whenever it has died, until nothing is pending."""

    def idle() -> bool:
        if not w.is_running:
            w.kill()
            w.start(wait=False)
        return broker.ledger().pending == 0

    eventually(idle, timeout_s, w.log)


def suspects(broker: BareBroker, *names: str, deaths: int = 0, unattributed_deaths: int = 0) -> None:
    """Messages with a past, as a sweep would have handed them on."""
    keys, past = broker.store.keys, {}
    if deaths:
        past["d"] = json.dumps([{"reason": "killed"}] * deaths)
    if unattributed_deaths:
        past["u"] = str(unattributed_deaths)
    broker.send("nap", *names, queue="forge")
    for stream in filter(broker.redis.exists, broker.store.streams("forge")):
        for entry, fields in broker.redis.xrange(stream):
            broker.redis.xdel(stream, entry)
            if "m" in fields:
                broker.redis.hincrby(keys.ledger("forge"), "accepted", -1)
                broker.redis.hincrby(keys.ledger("celery"), "accepted", 1)
                broker.redis.xadd(keys.stream("celery", "returned-0"), {**fields, **past})


@pytest.mark.parametrize("pool", POOLS)
def test_only_the_poison_is_dead_lettered_and_what_ran_beside_it_is_handled(broker: BareBroker, pool: str) -> None:
    bystanders = [f"n{i}" for i in range(12)]
    broker.send("nap", *bystanders[:2])
    broker.send("kill_worker", "poison")
    broker.send("nap", *bystanders[2:])
    with worker(broker, pool) as w:
        restarted_until_idle(w, broker)
        assert broker.began().count("poison") == 3
        assert set(broker.done()) == set(bystanders)
        (letter,) = broker.letters()
        told = json.loads(letter["letter"])
        assert (told["reason"], told["attempts"]) == ("poison", 3)
        assert "poison" in letter["m"]
        deaths = json.loads(letter["d"])
        assert [death["reason"] for death in deaths] == ["killed"] * 3
        # The last one convicts, so nothing ran beside it.
        assert deaths[-1]["alone"] is True
        assert len({death["by"] for death in deaths}) == 3
    row = broker.ledger()
    assert (row.dead, row.handled, row.lost) == (1, 12, 0)


def test_what_kills_the_main_process_at_once_is_poison_too(broker: BareBroker) -> None:
    bystanders = [f"n{i}" for i in range(6)]
    broker.send("kill_worker_at_once", "poison")
    broker.send("note", *bystanders)
    with worker(broker, "prefork") as w:
        restarted_until_idle(w, broker, timeout_s=90)
        (letter,) = broker.letters()
        assert "poison" in letter["m"]
        assert len(json.loads(letter["d"])) == 3
        assert set(broker.done()) == set(bystanders)
    # Three deaths, before which it was at most three times unmarked.
    assert broker.redis.xlen(broker.store.keys.deaths) <= 6


@pytest.mark.parametrize("pool", POOLS)
def test_a_last_chance_is_isolated_and_bystanders_are_handled(broker: BareBroker, pool: str) -> None:
    suspects(broker, "s0", "s1", deaths=2)
    suspects(broker, "s2", unattributed_deaths=2)
    broker.send("nap", *[f"n{i}" for i in range(8)])
    with worker(broker, pool) as w:
        eventually(lambda: broker.ledger().handled == 11, timeout_s=30, describe=w.log)
        beside = broker.redis.hgetall("test:beside")
        assert not {"s0", "s1", "s2"} & {*beside, *",".join(beside.values()).split(",")}
        if pool != "solo":
            assert beside, "the others ran together"
        assert w.stop() == 0
    row = broker.ledger()
    assert (row.dead, row.lost, row.duplicated, row.restarted) == (0, 0, 0, 0)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_waiting_to_be_alone_ends_with_the_worker(broker: BareBroker, pool: str) -> None:
    broker.send("hold", "long")
    with worker(broker, pool) as w:
        eventually(lambda: broker.began() == ["long"], describe=w.log)
        suspects(broker, "s0", deaths=2)
        eventually(lambda: broker.ledger().held == 2, describe=w.log)
        broker.send("note", "later")
        w.signal(signal.SIGTERM)
        eventually(lambda: broker.ledger().ready == 2, describe=w.log)
        broker.go("long")
        eventually(lambda: not w.is_running, timeout_s=20, describe=w.log)
    assert broker.began() == ["long"]
    row = broker.ledger()
    assert (row.handled, row.ready, row.restarted, row.lost) == (1, 2, 0, 0)


def test_waiting_for_isolation_has_an_end_and_the_mark_says_so(broker: BareBroker) -> None:
    broker.send("hold", "long")
    with worker(broker, "threads", environment={"BARE_OPTIONS": '{"isolation_wait_s": 0.3}'}) as w:
        eventually(lambda: broker.began() == ["long"], describe=w.log)
        suspects(broker, "s0", deaths=2)
        eventually(lambda: broker.done().get("s0") == 1, describe=w.log)
        assert "runs without isolation" in w.log()
        broker.go("long")
        eventually(lambda: broker.ledger().handled == 2, describe=w.log)
        broker.send("note", "next")
        eventually(lambda: broker.ledger().handled == 3, describe=w.log)
