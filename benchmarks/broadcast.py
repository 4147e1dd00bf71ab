"""``python -m benchmarks.broadcast``: what one message to many agents takes; all are accepted in one step."""

from __future__ import annotations

import argparse
import json
import statistics
import time

import redis
from celery import Celery

from benchmarks.machine import machine
from orchestrator import Agent, Message, Orchestrator, handles
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer

KEYS = Keys()


class Noop(Message):
    """Says nothing."""

    number: int


class Listener(Agent):
    """Never runs."""

    name = "listener"

    @handles(Noop)
    def noop(self, message: Noop) -> None:
        """Does nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"machine: {machine()}")
    names = [f"listener-{number}" for number in range(options.recipients)]
    with EmbeddedServer() as server:
        orchestrator = Orchestrator(Celery("bench-broadcast", broker=server.url, set_as_current=False))
        for name in names:
            orchestrator.host(type("Listener", (Listener,), {"name": name}))
        client = redis.Redis.from_url(server.url)
        took_s, own_s, redis_s = [], [], []
        for number in range(options.rounds + 1):
            client.flushdb()
            # Somebody who lives and serves them all.
            client.zadd(KEYS.leases, {"nobody#1": 1})
            client.hset(KEYS.incarnation("nobody#1"), "queues", json.dumps(names))
            client.config_resetstat()
            began, began_own = time.perf_counter(), time.process_time()
            report = orchestrator.broadcast(names, Noop(number=number))
            ended, ended_own = time.perf_counter(), time.process_time()
            if report.refused:
                raise SystemExit(f"{len(report.refused)} refused")
            took_s.append(ended - began)
            own_s.append(ended_own - began_own)
            redis_s.append(client.info("commandstats")["cmdstat_evalsha"]["usec"] / 1e6)
    # The first one also declares.
    took, own, inside = (statistics.median(each[1:]) for each in (took_s, own_s, redis_s))
    print(f"broadcast: recipients={options.recipients} s={took:.2f} sender_cpu_s={own:.2f} redis_s={inside:.2f}")


if __name__ == "__main__":
    main()
