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
            self.orchestrator.runtime.redis.sweep()
            return next((down for down in self.downs() if down["ref"] == ref), None)

        return eventually(found, 15, self.log) or {}

    @contextmanager
    def victim(self) -> Iterator[WorkerProcess]:
        with WorkerProcess(APP, self.url, name="victim", queues="victim") as process:
            eventually(lambda: any("victim" in i.agents for i in self.orchestrator.registry.incarnations()))
            yield process


@pytest.fixture(scope="module")
def cluster() -> Iterator[SentryCluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, name="sentry", queues="sentry", pool="prefork", concurrency=2) as sentry,
    ):
        cluster = SentryCluster(server.url, sentry, monitors_app.make(server.url))
        yield cluster
        cluster.close()


def test_an_agent_is_told_of_a_killed_one(cluster: SentryCluster) -> None:
    with cluster.victim() as victim:
        incarnation = victim.incarnation
        by_name, by_id = cluster.watch("victim", "name"), cluster.watch(incarnation, "id")
        (entry,) = cluster.orchestrator.monitors.list(tag="name")
        assert entry.owner == cluster.worker.incarnation
        assert entry.agent == "sentry"
        victim.kill()
        down = cluster.down(by_name)
        assert (down["target"], down["reason"], down["tag"]) == ("victim", "killed", "name")
        assert down["owner"] == cluster.worker.incarnation
        assert (cluster.down(by_id)["target"], cluster.down(by_id)["tag"]) == (incarnation, "id")
    late = cluster.watch("victim")
    assert cluster.down(late)["reason"] == "noproc"
    assert len(cluster.downs()) == len({down["ref"] for down in cluster.downs()})
    assert inconsistencies(cluster.orchestrator.runtime.redis.monitors) == []


def test_an_agent_is_told_of_one_that_was_stopped_and_a_failing_on_down_is_tried_again(cluster: SentryCluster) -> None:
    with cluster.victim() as victim:
        ref = cluster.watch("victim", "broken")
        victim.stop()
        down = cluster.down(ref)
        assert (down["reason"], down["attempt"]) == ("drained", 2)
    rows = eventually(lambda: [r for r in cluster.orchestrator.ledger() if r.queue == "sentry" and not r.pending])
    assert all(row.balanced and row.dead == 0 for row in rows)


def test_monitors_made_during_shutdown_go_with_their_owner(cluster: SentryCluster) -> None:
    with (
        cluster.victim(),
        WorkerProcess(APP, cluster.url, name="last", queues="sentry", pool="threads", concurrency=2) as last,
    ):
        cluster.worker.kill()
        redis, registry = cluster.orchestrator.runtime.redis, cluster.orchestrator.registry
        eventually(lambda: redis.sweep() and len(registry.incarnations()) == 2)
        before = cluster.orchestrator.monitors.stats().created
        cluster.orchestrator.send("sentry", Watch(target="victim", tag="late", hold=True))
        assert cluster.redis.blpop(["test:began"], timeout=20)
        last.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in last.log() or "warm shutdown" in last.log(), 10, last.log)
        cluster.redis.rpush("test:go", "1")
        eventually(lambda: not last.is_running, 20, last.log)
        assert cluster.orchestrator.monitors.stats().created == before + 1, last.log()
        eventually(lambda: redis.sweep() and not cluster.orchestrator.monitors.list(tag="late"), 10)
        assert inconsistencies(cluster.orchestrator.runtime.redis.monitors) == []
