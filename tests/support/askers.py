"""Workers of ``tests.apps.calls_app``, one that asks and one that is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from orchestrator.embedded import EmbeddedServer
from tests.apps import calls_app
from tests.apps.calls_app import REPLIES
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.calls_app"


class Askers(Cluster):
    """A worker that asks, one that is asked, and what comes of it."""

    def __init__(self, server: EmbeddedServer, asker: WorkerProcess, callee: WorkerProcess) -> None:
        super().__init__(server.url, asker, calls_app.make(server.url))
        self.server, self.asker, self.callee = server, asker, callee

    def replies(self) -> list[dict[str, Any]]:
        """The replies that were handled."""
        return [json.loads(raw) for raw in self.redis.lrange(REPLIES, 0, -1)]

    def replied(self, count: int, timeout_s: float = 20) -> list[dict[str, Any]]:
        """The replies, once so many asks have one."""
        return eventually(
            lambda: self.replies() if len({reply["id"] for reply in self.replies()}) >= count else [],
            timeout_s,
            lambda: f"{self.replies()}\n{self.asker.log()}\n{self.callee.log()}",
        )

    def counts(self, agent: str = "billing") -> dict[str, int]:
        """What became of the asks of an agent."""
        return {name.decode(): int(n) for name, n in self.redis.hgetall(self.keys.calls(agent)).items()}

    def forget(self) -> None:
        """Begin anew."""
        counters = [self.keys.calls(agent) for agent in ("billing", "bounded")]
        self.close_breaker()
        for key in self.redis.keys("test:go:*"):
            self.redis.delete(key)
        self.redis.delete(REPLIES, "test:begun", "test:ran", *counters)

    def close_breaker(self) -> None:
        """Close the breaker of the agent that has one, if a worker hosts it."""
        self.orchestrator.runtime.mode.breakers.close("bounded")

    def sweep(self) -> None:
        """Sweep in the place of a manager."""
        self.orchestrator.runtime.redis.sweep()


@contextmanager
def askers(server: EmbeddedServer, callees: str = "billing", of_asker: str = "shop") -> Iterator[Askers]:
    """A worker of the shop, and one of these other agents; each has one slot."""
    with ExitStack() as stack:
        asker = stack.enter_context(WorkerProcess(APP, server.url, name="asker", queues=of_asker))
        callee = stack.enter_context(WorkerProcess(APP, server.url, name="callee", queues=callees))
        cluster = Askers(server, asker, callee)
        # A worker holds its lease a moment before it says what it hosts; a call meanwhile is refused.
        agents = [*of_asker.split(","), *callees.split(",")]
        eventually(lambda: all(cluster.orchestrator.registry.hosted(agent, agent) for agent in agents))
        yield cluster
        cluster.close()
