"""``make bench-transport``: the same no-op tasks with the same flags over kombu's Redis transport and over ours.

Both sides alternate within one run on one server; each figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kombu import Connection, Producer

from benchmarks.machine import machine
from benchmarks.noop_app import READY
from orchestrator.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
SIDES = ("stock", "ours")
TRANSPORT = "orchestrator.transport:Transport"

#: Parts that are measured only when asked for.
SELDOM = ("nothing",)


def _noop(number: int) -> None:
    """Sent, never run."""


class Bench:
    """One server, one measurement at a time."""

    def __init__(self, url: str, messages: int) -> None:
        self.url = url
        self.messages = messages
        self.redis = redis.Redis.from_url(url)
        #: Further arguments of `celery worker`.
        self.arguments: list[str] = []

    def _app(self, side: str) -> Celery:
        app = Celery(f"sender-{side}", broker=self.url, set_as_current=False)
        app.conf.task_ignore_result = True
        if side != "stock":
            app.conf.broker_transport = TRANSPORT if side == "ours" else "benchmarks.nothing:Nothing"
        return app

    def _fill(self, side: str) -> None:
        self.redis.flushall()
        options = {"transport": TRANSPORT} if side == "ours" else {}
        app = self._app(side)
        with Connection(self.url, **options) as connection, connection.channel() as channel:
            producer = Producer(channel)
            app.amqp.queues["celery"](channel).declare()
            with producer.batch(max_size=500):
                for number in range(self.messages):
                    app.send_task("noop", args=[number], producer=producer)
        app.close()

    def _left(self, side: str) -> int:
        if side == "stock":
            return int(self.redis.llen("celery"))
        return self.messages - int(self.redis.hget("orc:ledger:celery", "handled") or 0)

    def _worker(self, side: str, name: str, pool: str, concurrency: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "BENCH_URL": self.url, "BENCH_TRANSPORT": side, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.noop_app", "worker", "-n", f"{name}@%h"]
        command += ["-P", pool, "-c", str(concurrency), "-l", "WARNING", "--without-gossip", "--without-mingle"]
        return subprocess.Popen(
            [*command, *self.arguments],
            cwd=ROOT,
            env={**environment, "C_FORCE_ROOT": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def consume(self, side: str, pool: str, concurrency: int, workers: int = 1) -> float:
        """Tasks a second, from when a tenth is done and every worker is up until the last twentieth."""
        self._fill(side)
        processes = [self._worker(side, f"w{n}", pool, concurrency) for n in range(workers)]
        try:
            self._await_ready(workers)
            begin = self._when(side, self.messages * 0.9)
            if begin[1] < self.messages * 0.3:
                raise SystemExit(
                    f"{side}: {begin[1]} messages left when {workers} workers were up; use more --messages"
                )
            end = self._when(side, self.messages * 0.05)
        finally:
            # Not asked to stop: a prefork worker under load takes its time for that, on either side.
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=30)
        return (begin[1] - end[1]) / (end[0] - begin[0])

    def _await_ready(self, workers: int) -> None:
        give_up = time.monotonic() + 60
        while int(self.redis.get(READY) or 0) < workers:
            if time.monotonic() > give_up:
                raise SystemExit(f"a worker was not up after 60 s; {workers} were started")
            time.sleep(0.005)

    def _when(self, side: str, at_most: float) -> tuple[float, int]:
        give_up = time.monotonic() + 120
        while (left := self._left(side)) > at_most:
            if time.monotonic() > give_up:
                raise SystemExit(f"{side}: {left} messages still left after 120 s")
            time.sleep(0.005)
        return time.monotonic(), left

    def publish(self, side: str) -> float:
        """Messages a second, one ``apply_async`` after the other."""
        self.redis.flushall()
        app = self._app(side)
        task = app.task(_noop, name="noop")
        for number in range(self.messages // 20):
            task.apply_async((number,))
        began = time.perf_counter()
        for number in range(self.messages // 2):
            task.apply_async((number,))
        rate = (self.messages // 2) / (time.perf_counter() - began)
        app.close()
        return rate

    def batch(self, side: str) -> float:
        """Messages a second through ``Producer.batch()``."""
        self.redis.flushall()
        options = {"transport": TRANSPORT} if side == "ours" else {}
        with Connection(self.url, **options) as connection, connection.channel() as channel:
            producer = Producer(channel, serializer="json")
            with producer.batch(max_size=100):
                for number in range(self.messages // 10):
                    producer.publish([number], exchange="", routing_key="celery")
            began = time.perf_counter()
            with producer.batch(max_size=100):
                for number in range(self.messages * 2):
                    producer.publish([number], exchange="", routing_key="celery")
            return self.messages * 2 / (time.perf_counter() - began)

    def idle_ops_s(self) -> float:
        """What one worker that has nothing to do sends to Redis in a second: commands, and scripts as one each."""
        self.redis.flushall()
        process = self._worker("ours", "idle", "solo", 1)
        try:
            deadline = time.monotonic() + 30
            while not self.redis.zcard("orc:leases") and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(2)
            sent, began = 0, time.monotonic()
            monitor: Any = self.redis.monitor()  # type: ignore[no-untyped-call]
            with monitor:
                while time.monotonic() - began < 10:
                    # What a script does is shown as well, but not as a client's.
                    sent += monitor.next_command()["client_type"] != "lua"
            return sent / (time.monotonic() - began)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


PARTS: dict[str, Callable[[Bench, str], float]] = {
    "solo": lambda bench, side: bench.consume(side, "solo", 1),
    "threads": lambda bench, side: bench.consume(side, "threads", 4),
    "prefork": lambda bench, side: bench.consume(side, "prefork", 2),
    "two_solo": lambda bench, side: bench.consume(side, "solo", 1, workers=2),
    "publish": Bench.publish,
    "batch": Bench.batch,
    # The most that one by one could come to: apply_async over a transport that publishes nothing.
    "nothing": lambda bench, side: bench.publish("nothing" if side == "ours" else side),
}


def ratio(name: str, rounds: int, measure: Callable[[str], float]) -> float:
    """Median of ours over stock, alternating which goes first."""
    ratios = []
    for number in range(rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        rate = {side: measure(side) for side in order}
        ratios.append(rate["ours"] / rate["stock"])
        shown = f"stock {rate['stock']:8.0f}/s  ours {rate['ours']:8.0f}/s  {ratios[-1]:.2f}x"
        print(f"  {name:<9} round {number + 1}: {shown}", flush=True)
    return statistics.median(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="parts, with commas between: " + ", ".join((*PARTS, "idle")))
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [*(name for name in PARTS if name not in SELDOM), "idle"]
    print(f"machine: {machine()}")
    with EmbeddedServer() as server:
        bench = Bench(server.url, options.messages)
        print(f"redis: {bench.redis.info('server')['redis_version']}, {options.messages} messages a round")
        figures = {
            name: ratio(name, options.rounds, functools.partial(measure, bench))
            for name, measure in PARTS.items()
            if name in wanted
        }
        said = [f"{name}={value:.2f}" for name, value in figures.items()]
        if "idle" in wanted:
            said.append(f"idle_ops_s={bench.idle_ops_s():.1f}")
    print("bench-transport: " + " ".join(said))


if __name__ == "__main__":
    main()
