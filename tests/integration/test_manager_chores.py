"""The monitor manager's chores: none is lost because the manager was busy, and each is done when it is due."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.deadletters.upkeep import Kept
from orchestrator.monitors import manager, upkeep
from orchestrator.monitors.chores import Chore, Chores
from tests.eventually import eventually
from tests.monitor_ground import OnRedis


@pytest.fixture
def ground(redis_url: str) -> Iterator[OnRedis]:
    ground = OnRedis(redis_url)
    yield ground
    ground.close()


def beat(orchestrator: Orchestrator) -> None:
    """Send what beat sends when everything is due."""
    app = orchestrator.app
    for entry in app.conf.beat_schedule.values():
        app.send_task(entry["task"], **entry["options"])


def serve(orchestrator: Orchestrator) -> list[str]:
    """Run what lies in the manager's mailbox; returns the tasks."""
    app, ran = orchestrator.app, []
    with app.connection_for_read() as connection, connection.channel() as channel:
        while message := channel.basic_get(manager.QUEUE, no_ack=True):
            ran.append(message.headers["task"])
            app.tasks[ran[-1]]()
    return ran


def test_a_manager_that_was_busy_sweeps_once_and_does_all_that_was_due(
    ground: OnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = ground.orchestrator
    done: list[str] = []
    ground.monitors.monitor_many([("target", "x"), ("target", "x")], owner=ground.watcher())

    def keep() -> Kept:
        done.append("letters")
        return Kept()

    monkeypatch.setattr(orchestrator, "keep_letters", keep)
    for _ in range(3):
        beat(orchestrator)
    ran = serve(orchestrator)
    assert ran.count(manager.TASK) == 1
    assert ground.monitors.stats().leaked == 1
    assert done == ["letters"]
    assert orchestrator.ledger()[0].expired == orchestrator.ledger()[0].accepted - 1


def test_a_sweep_expires_by_nobodys_clock(ground: OnRedis) -> None:
    assert all("expires" not in e["options"] for e in ground.orchestrator.app.conf.beat_schedule.values())


class Told:
    """Chores that note that they were done."""

    def __init__(self, ground: OnRedis, *every_s: float) -> None:
        self.done: list[int] = []
        chores = [Chore(str(n), s, lambda n=n: self.done.append(n)) for n, s in enumerate(every_s)]  # type: ignore[misc]
        self.chores = Chores(chores, lambda: ground.store, sweep_every_s=0.01)


def test_of_several_managers_one_does_what_is_due_and_again_when_it_is_due_again(ground: OnRedis) -> None:
    first, second = Told(ground, 3600, 0.05), Told(ground, 3600, 0.05)
    assert first.chores.do_due() == ["0", "1"]
    assert ground.redis.pttl(ground.store.keys.chore("0")) > 3_590_000
    eventually(lambda: second.chores.do_due())
    assert (first.done, second.done) == ([0, 1], [1])


def test_a_chore_that_fails_keeps_nobody_from_the_others(ground: OnRedis, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise BrokerUnavailable("redis://x", "gone")

    done: list[int] = []
    chores = Chores(
        [Chore("a", 60, fail), Chore("b", 60, lambda: done.append(1))], lambda: ground.store, sweep_every_s=1
    )
    with caplog.at_level(logging.ERROR):
        assert chores.do_due() == ["a", "b"]
    assert done == [1]
    assert "a failed; it is done again in 60 s" in caplog.text


def test_chores_are_done_when_redis_is_full(ground: OnRedis) -> None:
    told = Told(ground, 60)
    ground.redis.config_set("maxmemory", 1)
    try:
        assert told.chores.do_due() == ["0"]
    finally:
        ground.redis.config_set("maxmemory", 0)


def test_each_can_be_asked_for_at_once(ground: OnRedis) -> None:
    tasks: Any = ground.orchestrator.app.tasks
    ground.monitors.monitor_many([("target", "x"), ("target", "x")], owner=ground.watcher())
    assert tasks[manager.LEAKS_TASK]() == 1
    assert tasks[upkeep.TASK]() == {"retried": 0, "parked": 0, "expired": 0, "trimmed": 0}
