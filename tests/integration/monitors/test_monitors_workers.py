"""Monitors of agents on real workers, which are killed and stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator import Handled
from orchestrator.embedded import EmbeddedServer
from orchestrator.monitors.check import inconsistencies
from tests.apps import monitors_app
from tests.apps.monitors_app import Watch
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.monitors_app"


class SentryCluster(Cluster):
    """A worker with a sentry, in a pool of processes, and the workers that it monitors."""

    def watch(self, target: str, tag: str = "") -> int:
        outcome = self.orchestrator.send("sentry", Watch(target=target, tag=tag)).wait(timeout_s=20)
        assert isinstance(outcome, Handled), f"{outcome}\n{self.log()}"
        return int(outcome.result)

    def downs(self) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.redis.lrange("test:downs", 0, -1)]

    def down(self, ref: int) -> dict[str, Any]:
        """The DOWN of a monitor, once it has been handled."""

        def found() -> dict[str, Any] | None:
            self.orchestrator.runtime.sweep()
            return next((down for down in self.downs() if down["ref"] == ref), None)

        return eventually(found, 15, self.log) or {}

    @contextmanager
    def victim(self) -> Iterator[WorkerProcess]:
        with WorkerProcess(APP, self.url, name="victim", queues="victim") as process:
            eventually(lambda: any("victim" in i.agents for i in self.orchestrator.registry.incarnations()))
            yield process


@pytest.fixture(scope="module")
def house() -> Iterator[SentryCluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="sentry", queues="sentry", pool="prefork", concurrency=2) as sentry,
    ):
        house = SentryCluster(server.url, sentry, monitors_app.make(server.url))
        yield house
        house.close()


def test_an_agent_is_told_of_a_killed_one(house: SentryCluster) -> None:
    with house.victim() as victim:
        incarnation = victim.incarnation
        by_name, by_id = house.watch("victim", "name"), house.watch(incarnation, "id")
        (entry,) = house.orchestrator.monitors.list(tag="name")
        assert entry.owner == house.worker.incarnation
        assert entry.agent == "sentry"
        victim.kill()
        down = house.down(by_name)
        assert (down["target"], down["reason"], down["tag"]) == ("victim", "killed", "name")
        assert down["owner"] == house.worker.incarnation
        assert (house.down(by_id)["target"], house.down(by_id)["tag"]) == (incarnation, "id")
    late = house.watch("victim")
    assert house.down(late)["reason"] == "noproc"
    assert len(house.downs()) == len({down["ref"] for down in house.downs()})
    assert inconsistencies(house.orchestrator.runtime.redis_monitors()) == []


def test_an_agent_is_told_of_one_that_was_stopped_and_a_failing_on_down_is_tried_again(house: SentryCluster) -> None:
    with house.victim() as victim:
        ref = house.watch("victim", "broken")
        victim.stop()
        down = house.down(ref)
        assert (down["reason"], down["attempt"]) == ("drained", 2)
    rows = eventually(lambda: [r for r in house.orchestrator.ledger() if r.queue == "sentry" and not r.pending])
    assert all(row.balanced and row.dead == 0 for row in rows)


def test_monitors_made_during_shutdown_go_with_their_owner(house: SentryCluster) -> None:
    with (
        house.victim(),
        WorkerProcess(APP, house.url, name="last", queues="sentry", pool="threads", concurrency=2) as last,
    ):
        house.worker.kill()
        eventually(lambda: house.orchestrator.runtime.sweep() and len(house.orchestrator.registry.incarnations()) == 2)
        before = house.orchestrator.monitors.stats().created
        house.orchestrator.send("sentry", Watch(target="victim", tag="late", hold=True))
        assert house.redis.blpop(["test:began"], timeout=20)
        last.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in last.log() or "warm shutdown" in last.log(), 10, last.log)
        house.redis.rpush("test:go", "1")
        eventually(lambda: not last.is_running, 20, last.log)
        assert house.orchestrator.monitors.stats().created == before + 1, last.log()
        eventually(lambda: house.orchestrator.runtime.sweep() and not house.orchestrator.monitors.list(tag="late"), 10)
        assert inconsistencies(house.orchestrator.runtime.redis_monitors()) == []
