"""``make bench-send``: what a supervised send costs, and how it compares with other libraries, within one run.

All on one server, both (or all) sides alternating; each figure is a median. Other libraries run in a virtual
environment of their own (``requirements-peers.lock``) and are used as their documentation recommends for throughput;
two worker processes each. A library that cannot run on this Redis is named and left out.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.contenders.counting import counted
from benchmarks.machine import machine
from orchestrator import Agent, Message, Orchestrator, handles
from orchestrator.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers" / "bin"
OWN = Path(sys.executable).parent

#: Workers of each; ``{n}`` is which of the two, where the library starts no second one itself. Ours are children of the
#: supervision tree, which ends them if it is killed.
_CELERY = (
    "celery -A benchmarks.contenders.on_{name} worker -P solo -n {n}@%h -l WARNING --without-gossip --without-mingle"
)
WORKERS: dict[str, list[str]] = {
    "orchestrator": ["orchestrator supervise benchmarks/send.toml --state-dir {state}"],
    "celery": [_CELERY] * 2,
    "dramatiq": ["dramatiq benchmarks.contenders.on_dramatiq -p 2 -t 8"],
    "taskiq": ["taskiq worker benchmarks.contenders.on_taskiq:broker --workers 2 --log-level WARNING"],
    "huey": ["huey_consumer benchmarks.contenders.on_huey.huey -w 2 -k process -q -d 0.01 -m 0.05"],
    "saq": ["saq benchmarks.contenders.on_saq.settings --workers 2 --quiet"],
    "rq": ["rq worker-pool contender -n 2 -q -w rq.worker.SimpleWorker -u {url}"],
}

#: Whose bulk publishing is compared, and whose consuming.
BULK = ("orchestrator", "dramatiq", "taskiq", "streaq", "saq")
CONSUME = ("orchestrator", "dramatiq", "taskiq", "huey", "saq", "rq", "celery")

#: Slow ones get fewer messages; rates are compared.
SHARE = {"rq": 0.1, "celery": 0.5}


class Noop(Message):
    """Says nothing."""

    number: int


class Idler(Agent):
    """Never runs."""

    name = "idler"

    @handles(Noop)
    def noop(self, message: Noop) -> None:
        """Does nothing."""


def _noop(number: int) -> None:
    """Sent, never run."""


def _raw(task: Any, number: int) -> object:
    return task.apply_async((number,))


class Bench:
    """One server, one measurement at a time."""

    def __init__(self, url: str, messages: int) -> None:
        self.url = url
        self.messages = messages
        self.redis = redis.Redis.from_url(url)

    # -- one by one

    def senders(self) -> dict[str, Callable[[int], object]]:
        """A supervised send; a raw ``apply_async`` on our transport; one on the stock transport."""
        sides: dict[str, Callable[[int], object]] = {}
        for name in ("stock", "raw"):
            app = Celery(f"bench-{name}", broker=self.url, set_as_current=False)
            app.conf.task_ignore_result = True
            if name == "raw":
                app.conf.broker_transport = "orchestrator.transport:Transport"
            task = app.task(_noop, name=f"{name}.noop")
            sides[name] = functools.partial(_raw, task)
        orchestrator = Orchestrator(Celery("bench-send", broker=self.url, set_as_current=False))
        orchestrator.host(Idler)
        sides["send"] = lambda number: orchestrator.send("idler", Noop(number=number))
        return sides

    def one_by_one(self, rounds: int) -> dict[str, float]:
        """Median time of each, in microseconds, from short turns that alternate."""
        self.redis.flushall()
        sides = self.senders()
        turns: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds * 10 + 1):
            for name, send in sides.items():
                began = time.perf_counter()
                for number in range(100):
                    send(number)
                if turn:
                    turns[name].append((time.perf_counter() - began) / 100 * 1e6)
            self.redis.flushdb()
            for send in sides.values():
                send(0)
        return {name: statistics.median(times) for name, times in turns.items()}

    # -- bulk and consuming, each library in processes of its own

    def _environment(self, counts: str) -> dict[str, str]:
        own = {"BENCH_URL": self.url, "BENCH_COUNTS": counts, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"}
        return {**os.environ, **own, "FORKED_BY_MULTIPROCESSING": "0"}

    def bulk(self, name: str, messages: int, warm_up: int = 500) -> float | None:
        """Messages a second published in bulk; ``None`` if this library cannot run here."""
        self.redis.flushall()
        python = (OWN if name == "orchestrator" else PEERS) / "python"
        ran = subprocess.run(
            [str(python), "-m", "benchmarks.contenders", name, str(messages), *([str(warm_up)] if warm_up else [])],
            cwd=ROOT,
            env=self._environment(tempfile.gettempdir()),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ran.returncode != 0:
            why = (ran.stderr.strip().splitlines() or ["no word"])[-1]
            print(f"  {name} cannot publish here: {why[:150]}", flush=True)
            return None
        return float(ran.stdout)

    def consume(self, name: str) -> float:
        """No-op messages a second by two processes, from when both are at work until a twentieth is left.

        Prints beside it what that took of processors, which other work on the machine disturbs less.
        """
        messages = int(self.messages * SHARE.get(name, 1))
        if self.bulk(name, messages, warm_up=0) is None:
            raise SystemExit(f"{name} could not publish")
        with tempfile.TemporaryDirectory() as counts, tempfile.TemporaryDirectory() as state:
            processes = [
                self._worker(name, command, number, counts, state) for number, command in enumerate(WORKERS[name])
            ]
            try:
                begin = self._when(name, Path(counts), messages // 10, processes=2)
                before = self._processor_us(processes)
                end = self._when(name, Path(counts), messages * 19 // 20)
                after = self._processor_us(processes)
            finally:
                for process in processes:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(timeout=30)
        if begin[1] > messages * 0.7:
            raise SystemExit(f"{name}: {begin[1]} of {messages} done when both processes were at work; more --messages")
        done = end[1] - begin[1]
        workers_us, redis_us = ((now - then) / done for now, then in zip(after, before, strict=True))
        print(f"  {name}: {workers_us:.0f} us of processor time a message in its workers, {redis_us:.0f} in Redis")
        return done / (end[0] - begin[0])

    def _processor_us(self, workers: list[subprocess.Popen[bytes]]) -> tuple[float, float]:
        """What the workers have used so far, with all processes below them, and Redis."""
        parents: dict[int, int] = {}
        ticks: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(path.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
        started = {process.pid for process in workers}
        used = sum(ticks[pid] for pid in ticks if not started.isdisjoint(_ancestry(pid, parents)))
        redis_cpu: dict[str, float] = self.redis.info("cpu")
        redis_s = redis_cpu["used_cpu_user"] + redis_cpu["used_cpu_sys"]
        return used * 1e6 / os.sysconf("SC_CLK_TCK"), redis_s * 1e6

    def _worker(self, name: str, command: str, number: int, counts: str, state: str) -> subprocess.Popen[bytes]:
        program, *arguments = command.split()
        blanks = {"{name}": name, "{n}": f"w{number}", "{url}": self.url, "{state}": state}
        words = [functools.reduce(lambda text, blank: text.replace(*blank), blanks.items(), word) for word in arguments]
        folder = OWN if name == "orchestrator" else PEERS
        return subprocess.Popen(
            [str(folder / program), *words],
            cwd=ROOT,
            env=self._environment(counts),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _when(self, name: str, folder: Path, at_least: int, processes: int = 1) -> tuple[float, int]:
        give_up = time.monotonic() + 60
        while len(counts := counted(folder)) < processes or sum(counts) < at_least:
            if time.monotonic() > give_up:
                raise SystemExit(f"{name}: {counts} executed after 60 s, {at_least} by {processes} expected")
            time.sleep(0.005)
        return time.monotonic(), sum(counts)


def _ancestry(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    """A process, its parent, the parent's parent, and so on."""
    while pid:
        yield pid
        pid = parents.get(pid, 0)


def _medians(
    what: str, names: tuple[str, ...], rounds: int, end_by_s: float, measure: Callable[[str], float | None]
) -> dict[str, float]:
    """Medians of at most ``rounds`` rounds; of fewer if another one, as long as those before, would end too late."""
    rates: dict[str, list[float]] = {}
    out: set[str] = set()
    began_s = time.monotonic()
    for number in range(rounds):
        now_s = time.monotonic()
        if number and now_s + (now_s - began_s) / number > end_by_s:
            print(f"  {what:<8} ends after {number} of {rounds} rounds, for want of time", flush=True)
            break
        for name in names if number % 2 == 0 else names[::-1]:
            rate = None if name in out else measure(name)
            if rate is None:
                out.add(name)
                continue
            rates.setdefault(name, []).append(rate)
            print(f"  {what:<8} round {number + 1}: {name:<13} {rate:8.0f}/s", flush=True)
    return {name: statistics.median(each) for name, each in rates.items()}


def _against_best(rates: dict[str, float]) -> tuple[float, str]:
    others = {name: rate for name, rate in rates.items() if name != "orchestrator"}
    best = max(others, key=lambda name: others[name])
    return rates["orchestrator"] / others[best], best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=540.0, help="no round begins that would end after this")
    parser.add_argument("--only", choices=("send", "bulk", "consume"), help="one of the three parts")
    options = parser.parse_args()
    print(f"machine: {machine()}")
    said = []
    began_s = time.monotonic()
    with EmbeddedServer() as server:
        bench = Bench(server.url, options.messages)
        print(f"redis: {bench.redis.info('server')['redis_version']}")
        if options.only in (None, "send"):
            cost = bench.one_by_one(options.rounds)
            print("  " + "  ".join(f"{name} {us:.0f} us" for name, us in cost.items()))
            said += [
                f"send_vs_raw={cost['send'] / cost['raw']:.2f}",
                f"send_vs_stock={cost['send'] / cost['stock']:.2f}",
            ]
        if options.only in (None, "bulk"):
            bulk = _medians(
                "bulk",
                BULK,
                options.rounds,
                began_s + options.limit_s / 4,
                lambda name: bench.bulk(name, options.messages // 2),
            )
            said += [f"bulk_s={bulk['orchestrator']:.0f}", f"bulk_vs_best={_against_best(bulk)[0]:.2f}"]
        if options.only in (None, "consume"):
            consumed = _medians("consume", CONSUME, options.rounds, began_s + options.limit_s, bench.consume)
            times, best = _against_best(consumed)
            said += [f"consume_s={consumed['orchestrator']:.0f}", f"consume_vs_best={times:.2f}", f"best={best}"]
    print("bench-send: " + " ".join(said))


if __name__ == "__main__":
    main()
