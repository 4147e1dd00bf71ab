"""Workers whose handlers wait in calls, as Redis has them."""

from __future__ import annotations

import json
from typing import Any

from redis import Redis

from orchestrator.core.calls.ring import Ring
from orchestrator.core.keys import Keys
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.scripts import source

KEYS = Keys()


class Places:
    """Workers and their waits."""

    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url)

    def worker(self, name: str, *queues: str, slots: int = 1) -> None:
        """A living worker."""
        entered = self.redis.pipeline()
        entered.zadd(KEYS.leases, {name: 1})
        entered.hset(KEYS.incarnation(name), mapping={"queues": json.dumps(queues), "concurrency": slots or ""})
        for queue in queues:
            entered.sadd(KEYS.servers(queue), name)
        entered.execute()

    def ring(self, worker: str, agent: str, callee: str, delivery: str) -> Ring | None:
        """A handler calls; returns the ring that is closed by it."""
        _, names, args = commands.begin_wait(KEYS, worker, delivery, callee, agent, callee)
        reply: Any = self.redis.eval(source("begin_wait"), len(names), *names, *args)
        return Ring.decode(reply)

    def wait(self, worker: str, agent: str, callee: str, delivery: str) -> list[str]:
        """A handler calls; returns the agents of the ring."""
        ring = self.ring(worker, agent, callee, delivery)
        return [] if ring is None else list(ring.agents)

    def end(self, worker: str, delivery: str = "") -> int:
        """It waits no more."""
        _, names, args = commands.end_waits(KEYS, worker, delivery)
        return int(self.redis.eval(source("end_waits"), len(names), *names, *args))
