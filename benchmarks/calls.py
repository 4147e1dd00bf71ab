"""``make bench-calls``: round trips of calls, asks in flight, answers of the dead, hedges; with Celery's ``.get()``.

Two solo workers answer. ``p50_ms`` is the median of a call's round trip from one caller, and ``vs_celery_get`` that of
``apply_async().get()`` (Celery's own Redis transport and result backend, two solo workers too) by it; blocks of both
alternate. ``asks_s`` are the replies handled in a second while one handler's slot has 1,000 asks in flight, made by
``ask_many``; a line above says what they are if it asks one by one.
``dead_answer_p99_s`` is the time from SIGKILL of the worker that has a request with ``on_death="fail"``, and a time-out
of 30 s, until its caller has the error. ``hedged`` is the p99 of calls with a hedge by that of calls without, where one
of the two workers takes a second for a few. ``vs_pybreaker`` and ``vs_purgatory`` are the sends behind a circuit
breaker in a second by those of Celery behind a peer's; lines about breakers come first, and ``benchmarks/breakers.py``
says what they are.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from benchmarks import breakers
from benchmarks.calls_app import DONE, HELD, SLOW_S, Burst, Hold, Ping, Search, make, make_stock
from benchmarks.machine import machine
from orchestrator import Hedge, SendFailed
from orchestrator.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
_PATIENCE_S = 60.0


class Worker:
    """``celery worker`` with a solo pool."""

    def __init__(self, app: str, url: str, name: str, queues: str) -> None:
        celery = str(Path(sys.executable).with_name("celery"))
        self._command = [
            sys.executable,
            celery,
            "-q",
            "-A",
            app,
            "worker",
            "-n",
            f"{name}@%h",
            "-P",
            "solo",
            "-Q",
            queues,
        ]
        self._command += ["-c", "1", "-l", "ERROR", "--without-gossip", "--without-mingle"]
        self._environment = {**os.environ, "ORCHESTRATOR_BROKER_URL": url, "STOCK_URL": url, "PYTHONPATH": str(ROOT)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again)."""
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def wait_for(what: Callable[[], Any], text: str) -> Any:
    """Wait until it is true."""
    until = time.monotonic() + _PATIENCE_S
    pause = threading.Event()
    while time.monotonic() < until:
        if found := what():
            return found
        pause.wait(0.02)
    raise SystemExit(f"no {text} after {_PATIENCE_S:g} s")


def _client(url: str) -> Any:
    """A client that may block for longer than a command usually takes."""
    return redis.Redis.from_url(url, socket_timeout=2 * _PATIENCE_S)


def p(times: Sequence[float], share: float) -> float:
    """A percentile."""
    return sorted(times)[min(len(times) - 1, math.ceil(share * len(times)) - 1)]


def timed(count: int, call: Callable[[int], Any]) -> list[float]:
    """Seconds that each of so many calls takes."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - began)
    return times


def round_trips(url: str, stock_url: str, calls: int, blocks: int) -> tuple[list[float], list[float]]:
    """The round trips of our calls and of Celery's, in alternating blocks."""
    orchestrator, stock = make(url), make_stock(stock_url)
    ping = stock.tasks["ping"]
    ours: list[float] = []
    theirs: list[float] = []

    def call(number: int) -> None:
        assert orchestrator.call("callee", Ping(number=number), timeout_s=10) == number

    def get(number: int) -> None:
        assert ping.apply_async((number,)).get(timeout=10) == number

    timed(20, call)
    timed(20, get)
    for _ in range(blocks):
        ours += timed(calls, call)
        theirs += timed(calls, get)
    return ours, theirs


def asks_in_flight(url: str, count: int, rounds: int) -> float:
    """The replies handled in a second to asks that are made together, in the median round."""
    orchestrator, client = make(url), _client(url)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for together, found in rates.items():
            orchestrator.send("asker", Burst(count=count, together=together))
            took: Any = client.blpop([DONE], timeout=int(_PATIENCE_S))
            if took is None:
                raise SystemExit("the replies to the asks did not come")
            found.append(count / float(took[1]))
    for together, found in rates.items():
        how = "ask_many" if together else "ask, one by one"
        print(f"{count:,} asks in flight from one slot, {how}: {', '.join(f'{r:,.0f}' for r in found)} replies/s")
    return statistics.median(rates[True])


def answers_of_the_dead(url: str, workers: Sequence[Worker], kills: int) -> list[float]:
    """From SIGKILL of the worker that has a request until its caller has the error."""
    orchestrator, client = make(url), _client(url)
    times: list[float] = []
    for _ in range(kills):
        failed: list[float] = []

        def call(failed: list[float] = failed) -> None:
            try:
                orchestrator.call("callee", Hold(), timeout_s=30, on_death="fail")
            except SendFailed:
                failed.append(time.monotonic())

        caller = threading.Thread(target=call)
        caller.start()
        held: Any = client.blpop([HELD], timeout=int(_PATIENCE_S))
        worker = next(one for one in workers if one.pid == int(held[1]))
        began = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        caller.join(_PATIENCE_S)
        times.append(failed[0] - began if failed else 30.0)
        worker.end()
        worker.start()
        wait_for(lambda: len(orchestrator.registry.incarnations()) >= 3, "worker")
    return times


def searches(url: str, count: int) -> tuple[list[float], list[float]]:
    """Calls of which a few take a second in one of the workers, without and with a hedge."""
    orchestrator = make(url)
    hedge = Hedge(after_s=0.05, most=2)

    def hedged_call(number: int, _: int) -> None:
        orchestrator.call("callee", Search(number=number), timeout_s=10, hedge=hedge)

    plain = timed(count, lambda n: orchestrator.call("callee", Search(number=n), timeout_s=10))
    hedged: list[float] = []
    for number in range(count):
        hedged += timed(1, functools.partial(hedged_call, number))
        if hedged[-1] > hedge.after_s:
            # Until the slow worker is back: else it would answer fewer of these calls than of those without a hedge.
            threading.Event().wait(SLOW_S)
    copies = sum(counts.hedged for counts in orchestrator.call_counts() if counts.queue == "callee")
    print(f"{count} calls with a hedge: {copies} copies, {100 * copies / count:.1f} % more load")
    return plain, hedged


def main() -> None:
    """Run all parts, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="round trips of a block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--asks", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers")
    options = parser.parse_args()
    print(machine())
    with EmbeddedServer() as server:
        guarded = breakers.report(server.url, options.peers)
    with ExitStack() as stack:
        server, peer = stack.enter_context(EmbeddedServer()), stack.enter_context(EmbeddedServer())
        ours = [Worker("benchmarks.calls_app:app", server.url, f"callee{n}", "callee") for n in range(2)]
        asker = Worker("benchmarks.calls_app:app", server.url, "asker", "asker,monitor-manager")
        theirs = [Worker("benchmarks.calls_app:stock", peer.url, f"stock{n}", "stock") for n in range(2)]
        for worker in (*ours, asker, *theirs):
            worker.start()
            stack.callback(worker.end)
        orchestrator = make(server.url)
        wait_for(lambda: len(orchestrator.registry.incarnations()) == 3, "workers")
        wait_for(lambda: make_stock(peer.url).control.ping(timeout=1), "workers of Celery")
        mine, celery = round_trips(server.url, peer.url, options.calls, options.blocks)
        for worker in theirs:
            worker.end()
        p50_ms = 1000 * statistics.median(mine)
        vs_celery = statistics.median(celery) / statistics.median(mine)
        print(
            f"round trip: p50 {p50_ms:.2f} ms, p99 {1000 * p(mine, 0.99):.2f} ms; "
            f"Celery's .get(): p50 {1000 * statistics.median(celery):.2f} ms, p99 {1000 * p(celery, 0.99):.2f} ms"
        )
        asks_s = asks_in_flight(server.url, options.asks, 5)
        plain, hedged = searches(server.url, options.searches)
        print(f"p99 without a hedge {p(plain, 0.99):.3f} s, with one {p(hedged, 0.99):.3f} s")
        dead = answers_of_the_dead(server.url, ours, options.kills)
        print(f"answers of the dead: p50 {statistics.median(dead):.2f} s, longest {max(dead):.2f} s")
    print(
        f"bench-calls: p50_ms={p50_ms:.2f} vs_celery_get={vs_celery:.2f} asks_s={asks_s:.0f} "
        f"dead_answer_p99_s={p(dead, 0.99):.2f} hedged={p(hedged, 0.99) / p(plain, 0.99):.2f}"
        + "".join(f" vs_{name}={times:.1f}" for name, times in guarded.items())
    )


if __name__ == "__main__":
    main()
