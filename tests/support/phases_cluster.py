"""Two workers of ``tests.apps.phases_app``; a test has one of them killed at an exact place, and looks at what follows.

What is held ends by proof of death alone: the lease of a worker is longer than a test.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.sending.ledger import LedgerRow
from tests.apps import phases_app
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.kill_switch import KillSwitch, Place
from tests.support.worker_process import WorkerProcess, logs_of

APP = "tests.apps.phases_app"

_LEASE_S = "60"


def slow(*values: Any) -> Any:
    """A case of `make test-slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


class PhasesCluster(Cluster):
    """The Redis at ``url``, and the workers, of which one at a time is dead."""

    def __init__(self, url: str, workers: list[WorkerProcess], switch: KillSwitch) -> None:
        super().__init__(url, workers[0], phases_app.make(url))
        self.workers = workers
        self._switch = switch
        # Only workers are to sweep: a sweep by a wait here may last into the next test, and get to its place.
        vars(self.orchestrator.runtime.store.waiters_sweeper)["after_slice"] = lambda run: None

    def log(self) -> str:
        """What the workers have printed."""
        return logs_of(*self.workers)()

    def get_ready(self) -> None:
        """Have both workers run, and nothing noted."""
        self._switch.disarm()
        for worker in self.workers:
            if not worker.is_running:
                worker.start(wait=False)
        eventually(lambda: all(self._is_ready(worker) for worker in self.workers), 30, self.log)
        for key in self.redis.keys("test:*"):
            self.redis.delete(key)

    def _is_ready(self, worker: WorkerProcess) -> bool:
        # A worker whose record does not name its connection is not known to be dead before its lease has run out.
        return bool(self.redis.hexists(self.keys.incarnation(worker.incarnation), "client"))

    def kill_at(self, place: Place, act: Callable[[], Any]) -> Any:
        """Call ``act``, and have the worker killed that gets to the place; returns what ``act`` does.

        The other worker, or this one once it has been started again, goes on.
        """
        if place.script:
            self.redis.script_load(place.source())
        self._switch.arm(place)
        done = act()
        if place.kills == "process":
            self._switch.wait_until_reached(self.workers)
            return done
        killed = self._switch.wait_for_death(self.workers)
        pid = str(killed.pid)
        killed.start(wait=False)
        dead = eventually(lambda: self._death_of(pid), 20, self.log)
        assert dead[b"reason"] == b"killed", dead
        self._holds_nothing(dead[b"incarnation"].decode())
        return done

    def _death_of(self, pid: str) -> Any:
        records = (fields for _, fields in self.redis.xrevrange(self.keys.deaths, count=20))
        return next((fields for fields in records if fields[b"pid"].decode() == pid), None)

    def _holds_nothing(self, incarnation: str) -> None:
        root = self.keys.root
        held = [f"{root}{kind}:{incarnation}" for kind in ("named-of", "barriers-of")]
        eventually(lambda: not self.redis.exists(*held), 20, self.log)

    def notes(self, key: str) -> list[Any]:
        """What handlers have noted, in their order."""
        return [json.loads(raw) for raw in self.redis.lrange(key, 0, -1)]

    def begun(self) -> Counter[str]:
        """How often each thing was begun."""
        return Counter(note["what"] for note in self.notes("test:begun"))

    def idle(self, timeout_s: float = 20.0) -> list[LedgerRow]:
        """The ledger, once nothing is pending that a worker serves."""

        def nothing_pending() -> list[LedgerRow]:
            rows = [row for row in self.orchestrator.ledger() if row.queue != phases_app.ABSENT]
            return rows if all(row.pending == 0 for row in rows) else []

        return eventually(nothing_pending, timeout_s, self.log)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """What the block adds to the ledgers of all mailboxes, once nothing is pending."""
        names = ("accepted", "handled", "dead", "expired", "cancelled", "duplicated")

        def counts(rows: list[LedgerRow]) -> Counter[str]:
            return Counter({name: sum(getattr(row, name) for row in rows) for name in names})

        before, added = counts(self.orchestrator.ledger()), Counter[str]()
        yield added
        added.update(counts(self.idle()) - before)


@contextmanager
def phases_cluster(queues: str, **options: Any) -> Iterator[PhasesCluster]:
    """A Redis of its own, and two workers that serve these mailboxes."""
    with ExitStack() as stack:
        server, switch = stack.enter_context(EmbeddedServer()), stack.enter_context(KillSwitch())
        environment = {**switch.environment, "ORCHESTRATOR_LEASE_S": _LEASE_S}
        workers = [
            WorkerProcess(APP, server.url, name=name, queues=queues, environment=environment, **options)
            for name in ("w1", "w2")
        ]
        for worker in workers:
            stack.callback(worker.close)
            worker.start(wait=False)
        cluster = PhasesCluster(server.url, workers, switch)
        stack.callback(cluster.close)
        yield cluster
