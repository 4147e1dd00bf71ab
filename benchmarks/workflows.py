"""``make bench-workflows``: workflows beside Celery's canvas on its stock transport and beside DBOS, within one run.

Both sides alternate on one server, with two solo workers each; each figure is a median. DBOS runs in an environment of
its own (``requirements-peers.lock``), on the SQLite that it uses unless it is given a Postgres.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis
from celery import Celery, chain, chord

from benchmarks.machine import machine
from benchmarks.workflows_app import BODIES, READY
from orchestrator import Orchestrator, Workflow
from orchestrator.embedded import EmbeddedServer
from orchestrator.workflows.references import Results

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers" / "bin"
SIDES = ("stock", "ours")

#: After the last kill, what a chord may take until it counts as lost: three times the stock side's visibility time-out.
_PATIENCE_S = 30.0

#: Steps of one run when memory and the longest script are measured.
_STEPS_OF_A_RUN = 50_000


class Bench:
    """One server, one measurement at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis: Any = redis.Redis.from_url(url)
        self.apps = {side: self._app(side) for side in SIDES}
        self.orchestrator = Orchestrator(self.apps["ours"])

    def _app(self, side: str) -> Celery:
        app = Celery(f"bench-{side}", broker=self.url, set_as_current=False)
        if side == "stock":
            app.conf.result_backend = self.url
        for name in ("noop", "count", "body"):
            app.task(_never, name=name, shared=False)
        return app

    def task(self, side: str, name: str) -> Any:
        """A task of one side's app."""
        return self.apps[side].tasks[name]

    def _worker(self, side: str, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.workflows_app", "worker", "-n", f"{name}@%h"]
        command += ["-P", "solo", "-l", "WARNING", "--without-gossip", "--without-mingle"]
        own = {"BENCH_URL": self.url, "BENCH_SIDE": side, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"}
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @contextmanager
    def workers(self, side: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Two workers of a side on an empty server."""
        self.redis.flushall()
        processes = [self._worker(side, f"w{n}") for n in range(2)]
        try:
            self._until(lambda: int(self.redis.get(READY) or 0) >= 2, 60)
            yield processes
        finally:
            for process in processes:
                _kill(process)

    def restart(self, side: str, processes: list[subprocess.Popen[bytes]], number: int) -> None:
        """SIGKILL one of the workers, and start another in its place."""
        _kill(processes[number])
        processes[number] = self._worker(side, f"w{number}")

    def _until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        give_up = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > give_up:
                return False
            time.sleep(0.005)
        return True

    # -- the parts

    def fan_s(self, side: str, steps: int) -> float:
        """Seconds from the start of a fan-out of no-op steps until the one that they fan in to has ended."""
        noop, count = self.task(side, "noop"), self.task(side, "count")
        with self.workers(side):
            began = time.perf_counter()
            header = chord([noop.s(n) for n in range(steps)], count.s())
            if side == "stock":
                assert header.apply_async().get(timeout=300) == steps
            else:
                run = self.orchestrator.workflows.start(_fan(noop, count.s, steps))
                assert run.wait(300).state == "completed"
            return time.perf_counter() - began

    def chain_ms(self, side: str, steps: int) -> float:
        """Milliseconds a step of a chain."""
        noop = self.task(side, "noop")
        with self.workers(side):
            for count in (3, steps):
                began = time.perf_counter()
                if side == "stock":
                    chain(noop.s(0), *[noop.s() for _ in range(count - 1)]).apply_async().get(timeout=120)
                else:
                    self.orchestrator.workflows.start(_chain(noop, count)).wait(120)
            return (time.perf_counter() - began) / steps * 1000

    def diamonds(self, runs: int) -> float:
        """Steps a second of runs with five steps each, from the first start until the last end."""
        noop = self.task("ours", "noop")
        with self.workers("ours"):
            self.orchestrator.workflows.start(_diamond(noop, 0)).wait(30)
            began = time.perf_counter()
            started = [self.orchestrator.workflows.start(_diamond(noop, number)) for number in range(runs)]
            for run in started:
                assert run.wait(120).state == "completed"
            return 5 * runs / (time.perf_counter() - began)

    def dbos(self, runs: int) -> float:
        """The same with DBOS."""
        with tempfile.TemporaryDirectory() as folder:
            command = [str(PEERS / "python"), "-m", "benchmarks.contenders.on_dbos", folder, str(runs)]
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        return float(ran.stdout.split()[-1])

    def complete(self, side: str, chords: int) -> float:
        """The share of chords of ten, in percent, whose body ran, while a worker is SIGKILLed each second."""
        noop, body = self.task(side, "noop"), self.task(side, "body")
        with self.workers(side) as processes:
            ended: Callable[[], bool] = lambda: self.redis.hlen(BODIES) >= chords  # noqa: E731
            killed, next_kill = 0, time.monotonic() + 1
            for number in range(chords):
                if side == "stock":
                    chord([noop.s(n) for n in range(10)], body.s(number)).apply_async()
                else:
                    self.orchestrator.workflows.start(_fan(noop, partial(_signature, body, number), 10))
                if time.monotonic() > next_kill:
                    self.restart(side, processes, killed % 2)
                    killed, next_kill = killed + 1, time.monotonic() + 1
            while killed < 30 and not self._until(ended, 1):
                self.restart(side, processes, killed % 2)
                killed += 1
            self._until(ended, _PATIENCE_S)
            bodies = self.redis.hgetall(BODIES)
            print(f"  {side}: {len(bodies)} of {chords} chords complete, {killed} kills", flush=True)
            return 100 * len(bodies) / chords

    def memory(self, steps: int) -> tuple[float, float]:
        """Bytes of Redis for a waiting step; and the longest script in ms while many are released, and wait."""
        self.redis.flushall()
        self.redis.config_set("slowlog-log-slower-than", 1000)
        noop = self.task("ours", "noop")
        before = int(self.redis.info("memory")["used_memory"])
        runs = [
            self.orchestrator.workflows.start(_waiting(noop, min(_STEPS_OF_A_RUN, steps)))
            for _ in range(max(1, steps // _STEPS_OF_A_RUN))
        ]
        used = int(self.redis.info("memory")["used_memory"]) - before
        self.redis.slowlog_reset()
        # Sends the steps that waited, in slices.
        runs[0].post("go")
        runs[0].cancel()
        slowest = max((entry["duration"] for entry in self.redis.slowlog_get(200)), default=0)
        return used / steps, slowest / 1000


def _signature(task: Any, number: int, results: Results) -> Any:
    return task.s(results, number)


def _never(*_: Any) -> None:
    """Sent, never run here."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def _fan(noop: Any, last: Any, steps: int) -> Workflow:
    """Steps, and one more with their results; ``last`` makes its signature from these."""
    flow = Workflow("fan")
    names = tuple(flow.step(f"s{number}", noop.s(number)).name for number in range(steps))
    flow.step("last", last(Results(names)))
    return flow


def _chain(noop: Any, steps: int) -> Workflow:
    flow = Workflow("chain")
    step = flow.step("s0", noop.s(0))
    for number in range(1, steps):
        step = flow.step(f"s{number}", noop.s(step.result))
    return flow


def _diamond(noop: Any, number: int) -> Workflow:
    flow = Workflow("diamond")
    first = flow.step("first", noop.s(number))
    left, right = flow.step("left", noop.s(first.result)), flow.step("right", noop.s(first.result))
    middle = flow.step("middle", noop.s(left.result, right.result))
    flow.step("last", noop.s(middle.result))
    return flow


def _waiting(noop: Any, steps: int) -> Workflow:
    flow = Workflow("waiting")
    go = flow.wait("go", event="go")
    for number in range(steps - 1):
        flow.step(f"s{number}", noop.s(number), after=go)
    return flow


def _ratios(name: str, rounds: int, measure: Callable[[str], float]) -> tuple[float, float]:
    """The median of ours, and of the stock side's over ours, alternating which goes first."""
    ours, ratios = [], []
    for number in range(rounds):
        taken = {side: measure(side) for side in (SIDES if number % 2 == 0 else SIDES[::-1])}
        ours.append(taken["ours"])
        ratios.append(taken["stock"] / taken["ours"])
        shown = f"stock {taken['stock']:.2f}  ours {taken['ours']:.2f}  {ratios[-1]:.1f}x"
        print(f"  {name} round {number + 1}: {shown}", flush=True)
    return statistics.median(ours), statistics.median(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000, help="of the fan-out")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="steps that wait when memory is measured")
    parser.add_argument("--chords", type=int, default=1000)
    parser.add_argument("--only", default="fan,diamonds,chain,kills,memory", help="parts, with commas between")
    options = parser.parse_args()
    wanted, said = options.only.split(","), []
    print(f"machine: {machine()}")
    with EmbeddedServer() as server:
        bench = Bench(server.url)
        if "fan" in wanted:
            fan_s, ratio = _ratios("fan, s", options.rounds, lambda side: bench.fan_s(side, options.steps))
            said.append(f"fan_s={fan_s:.2f} vs_chord={ratio:.1f}")
        if "diamonds" in wanted:
            steps_s, theirs = [], []
            for number in range(options.rounds):
                steps_s.append(bench.diamonds(1000))
                theirs.append(bench.dbos(100))
                print(f"  diamonds round {number + 1}: dbos {theirs[-1]:.0f}/s  ours {steps_s[-1]:.0f}/s", flush=True)
            ratio = statistics.median(mine / other for mine, other in zip(steps_s, theirs, strict=True))
            said.append(f"steps_s={statistics.median(steps_s):.0f} vs_dbos={ratio:.1f}")
        if "chain" in wanted:
            chain_ms, ratio = _ratios("chain, ms", options.rounds, lambda side: bench.chain_ms(side, 100))
            said.append(f"chain_ms={chain_ms:.2f} vs_chain={ratio:.1f}")
        if "kills" in wanted:
            shares = {side: bench.complete(side, options.chords) for side in SIDES}
            said.append(f"complete={shares['ours']:.1f} celery_complete={shares['stock']:.1f}")
        if "memory" in wanted:
            size, block_ms = bench.memory(options.waiting)
            said.append(f"max_block_ms={block_ms:.1f} bytes={size:.0f}")
    print("bench-workflows: " + " ".join(said))


if __name__ == "__main__":
    main()
