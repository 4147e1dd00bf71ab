"""The monitor manager's chores: none is lost because the manager was busy, and each is done when it is due."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.housekeeping import HOUSEKEEPING_MESSAGE
from orchestrator.maintenance import dead_letter_retention, manager
from orchestrator.maintenance.chores import Chore, Chores
from orchestrator.maintenance.dead_letters import MaintenanceResult
from orchestrator.maintenance.housekeeping import HousekeepingThread
from orchestrator.maintenance.housekeeping_clock import HousekeepingClock
from tests.support.eventually import eventually
from tests.support.monitors_under_test import RedisUnderTest


@pytest.fixture
def ground(redis_url: str) -> Iterator[RedisUnderTest]:
    ground = RedisUnderTest(redis_url)
    yield ground
    ground.close()


def waiting(ground: RedisUnderTest) -> list[dict[str, Any]]:
    """What waits in the manager's mailbox."""
    streams = ground.store.streams(manager.QUEUE)
    return [json.loads(fields[b"m"]) for stream in streams for _, fields in ground.redis.xrange(stream)]


def test_a_manager_that_was_busy_sweeps_once_and_does_all_that_was_due(
    ground: RedisUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = ground.orchestrator
    done: list[str] = []
    ground.monitors.monitor_many([("target", "x"), ("target", "x")], owner=ground.watcher())

    def keep(*_: object) -> MaintenanceResult:
        done.append("letters")
        return MaintenanceResult()

    monkeypatch.setattr(manager, "maintain_dead_letters", keep)
    rounds = manager.Manager(orchestrator.runtime)
    clock = HousekeepingClock(orchestrator.app, None, 1)
    for _ in range(3):
        clock._publish()
    clock._close()
    (message,) = waiting(ground)
    assert message["headers"]["task"] == HOUSEKEEPING_MESSAGE
    assert rounds.run() == [
        dead_letter_retention.CHORE,
        manager.UNSERVED_CHORE,
        manager.LIMITS_CHORE,
        manager.RUNS_CHORE,
        manager.LEAKS_CHORE,
    ]
    assert ground.monitors.stats().leaked == 1
    assert done == ["letters"]
    row = orchestrator.housekeeping_ledger()
    assert (row.accepted, row.expired, row.balanced) == (3, 2, True)
    assert rounds.run() == []


def test_a_housekeeping_message_expires_by_no_clock(ground: RedisUnderTest) -> None:
    clock = HousekeepingClock(ground.orchestrator.app, None, 1)
    clock._publish()
    clock._close()
    (message,) = waiting(ground)
    assert not {"expires", "eta", "expiration"} & {*message["headers"], *message["properties"]}


def test_a_round_that_fails_is_one_error_line_and_the_next_request_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds: queue.Queue[int] = queue.Queue()

    def work() -> None:
        rounds.put(rounds.qsize())
        if rounds.qsize() == 1:
            raise BrokerUnavailable("redis://x", "gone")

    thread = HousekeepingThread(work)
    with caplog.at_level(logging.DEBUG, logger="orchestrator.maintenance.housekeeping"):
        thread.request()
        eventually(lambda: "housekeeping failed" in caplog.text)
        thread.request()
        eventually(lambda: rounds.qsize() == 2)
    lines = [record for record in caplog.records if record.name == "orchestrator.maintenance.housekeeping"]
    assert [record.levelname for record in lines] == ["ERROR"]


class Told:
    """Chores that note that they were done."""

    def __init__(self, ground: RedisUnderTest, *every_s: float) -> None:
        self.done: list[int] = []
        chores = [Chore(str(n), s, lambda n=n: self.done.append(n)) for n, s in enumerate(every_s)]  # type: ignore[misc]
        self.chores = Chores(chores, lambda: ground.store, sweep_interval_s=0.01)


def test_of_several_managers_one_does_what_is_due_and_again_when_it_is_due_again(ground: RedisUnderTest) -> None:
    first, second = Told(ground, 3600, 0.05), Told(ground, 3600, 0.05)
    assert first.chores.do_due() == ["0", "1"]
    assert ground.redis.pttl(ground.store.keys.chore("0")) > 3_590_000
    eventually(lambda: second.chores.do_due())
    assert (first.done, second.done) == ([0, 1], [1])


def test_a_chore_that_fails_keeps_nobody_from_the_others(
    ground: RedisUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise BrokerUnavailable("redis://x", "gone")

    done: list[int] = []
    chores = Chores(
        [Chore("a", 60, fail), Chore("b", 60, lambda: done.append(1))], lambda: ground.store, sweep_interval_s=1
    )
    with caplog.at_level(logging.ERROR):
        assert chores.do_due() == ["a", "b"]
    assert done == [1]
    assert "a failed; next run in 60 s" in caplog.text


def test_chores_are_done_when_redis_is_full(ground: RedisUnderTest) -> None:
    told = Told(ground, 60)
    ground.redis.config_set("maxmemory", 1)
    try:
        assert told.chores.do_due() == ["0"]
    finally:
        ground.redis.config_set("maxmemory", 0)
