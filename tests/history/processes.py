"""Processes that use coordination while they are killed, stopped and cut off, and what they write down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from redis import Redis

from chaos.forked_process import ROOT, ForkedProcess
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from tests.support.eventually import eventually
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_process import WorkerProcess

#: Of all processes. One that is stopped or cut off for longer than the lease is declared dead.
SETTINGS = {
    "ORCHESTRATOR_LEASE_S": "1.2",
    "ORCHESTRATOR_SWEEP_INTERVAL_S": "0.3",
    "ORCHESTRATOR_SWEEP_STALE_S": "0.5",
}

#: How long a process is stopped or cut off: some survive it, others do not.
_BLINK_S, _ABSENCE_S = 0.3, 2.6

#: Redis' clock tells milliseconds.
_CLOCK_S = 0.001

#: Between two faults.
_PAUSE_S = 0.3


class Clients:
    """The processes, and what they have written down."""

    def __init__(self, module: str, url: str, through: str, folder: Path) -> None:
        self._module, self._url, self._through, self._folder = module, url, through, folder
        self.running: dict[str, ForkedProcess] = {}
        self.workers: dict[str, WorkerProcess] = {}
        self._count = 0
        #: From when to when a process was stopped, continued, killed, cut off or declared dead.
        self.struck: dict[str, list[tuple[float, float]]] = {}
        self._pids: dict[int, str] = {}
        #: How often what was done to them.
        self.faults: Counter[str] = Counter()

    # -- processes

    def start(self) -> None:
        """Start another client; one in three is behind the network that is cut."""
        self._count += 1
        name = f"p{self._count}"
        through = self._through if self.is_behind_network(name) else self._url
        arguments = [self._url, str(self._folder / f"{name}.jsonl"), name, through]
        with self._errors_of(name).open("wb") as errors:
            self.running[name] = ForkedProcess(
                [sys.executable, "-m", self._module, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **SETTINGS},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self._pids[self.running[name].pid] = name

    def start_worker(self, app: str, name: str, **options: Any) -> None:
        """Start a worker; the second one is behind the network that is cut."""
        url = self._through if self.is_behind_network(name) else self._url
        folder = {"HISTORY_FOLDER": str(self._folder), "HISTORY_PROCESS": name}
        environment = {**folder, **SETTINGS}
        self.workers[name] = WorkerProcess(app, url, name=name, environment=environment, **options).start()

    def is_behind_network(self, name: str) -> bool:
        """Whether a cut of the network cuts this process off."""
        return name == "w2" if name.startswith("w") else int(name[1:]) % 3 == 0

    def strike(self, name: str, number: signal.Signals) -> None:
        """Signal a process. A killed worker is started again by the same name, a client is not."""
        self.faults[number.name] += 1
        with self._struck(name):
            if name in self.workers:
                worker = self.workers[name]
                if number is signal.SIGKILL:
                    worker.kill()
                    worker.start(wait=False)
                else:
                    worker.signal(number)
                return
            process = self.running[name] if number is not signal.SIGKILL else self.running.pop(name)
            process.send_signal(number)
            if number is signal.SIGKILL:
                process.wait()

    def cut(self, proxy: TcpProxy, seconds: float) -> None:
        """Cut the network for a while."""
        cut_off = [name for name in (*self.running, *self.workers) if self.is_behind_network(name)]
        with self._struck(*cut_off):
            proxy.cut()
        self.faults["cut"] += 1
        wait(seconds)
        # Connections from before the cut stay dead.
        with self._struck(*cut_off):
            proxy.heal()

    @contextmanager
    def _struck(self, *names: str) -> Iterator[None]:
        """Record a fault, from before it until after it: on a busy machine much may happen in between."""
        began = monotonic()
        try:
            yield
        finally:
            for name in names:
                self.struck.setdefault(name, []).append((began, monotonic()))

    def check_alive(self) -> None:
        """A client that has ended by itself sees nothing, and no history would show that."""
        for name, process in self.running.items():
            code = process.poll()
            assert code is None, (
                f"{name} has ended by itself, with {code}:\n{self._errors_of(name).read_text()[-3000:]}"
            )

    def first_strike(self, name: str, after: float) -> float:
        """From when on a process may have lost what it held or waited for after that; ``inf`` for never."""
        return min((max(began, after) for began, ended in self.struck.get(name, ()) if ended > after), default=inf)

    def go_on_until_enough(self, lacking: Callable[[Clients], list[str]]) -> None:
        """Let the clients go on until nothing is lacking in their history.

        They act at random, and on a busy machine seldom: what a history needs to show anything may come late.
        """

        def is_enough() -> bool:
            self.check_alive()
            return not lacking(self)

        eventually(is_enough, 60, lambda: f"{lacking(self)} {self.errors()}")

    def stop_clients(self) -> None:
        """Kill the clients; the workers go on."""
        for name in list(self.running):
            self.strike(name, signal.SIGKILL)
        # Some may have been declared dead at the last moment.
        for pid, died in deaths_on_record(self._url):
            if pid in self._pids:
                self.struck.setdefault(self._pids[pid], []).append((died, died + _CLOCK_S))

    def close(self) -> None:
        """Kill all."""
        self.stop_clients()
        for worker in self.workers.values():
            worker.close()

    # -- what they have written

    def _errors_of(self, name: str) -> Path:
        return self._folder / f"{name}.stderr"

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines; what was being written when its process was killed is none."""
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                if line.endswith("}"):
                    yield json.loads(line)

    def errors(self) -> Counter[str]:
        """What the processes have run into, and how often; for who asks why a history is short."""
        return Counter(line["error"] for line in self.lines() if "error" in line)

    def operations(self) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[tuple[str, int], dict[str, Any]]]:
        """The calls, and their returns, each by process and number."""
        calls: dict[tuple[str, int], dict[str, Any]] = {}
        returns: dict[tuple[str, int], dict[str, Any]] = {}
        for line in self.lines():
            if "error" not in line:
                key = line["process"], line["number"]
                (returns if "act" not in line else calls)[key] = line
        return calls, returns


class FaultyRun:
    """A Redis, a network that can be cut, and processes that are killed, stopped and cut off, round after round."""

    def __init__(self, module: str, folder: Path, *, processes: int = 6) -> None:
        seed = random.randrange(1 << 30)
        print(f"seed {seed}")  # noqa: T201
        self._chance = random.Random(seed)
        self._module, self._folder, self._processes = module, folder, processes
        self._cleanup = ExitStack()

    def __enter__(self) -> FaultyRun:
        with ExitStack() as stack:
            self.url = stack.enter_context(EmbeddedServer()).url
            self._proxy = stack.enter_context(TcpProxy(self.url))
            self.clients = Clients(self._module, self.url, self._proxy.url, self._folder)
            stack.callback(self.clients.close)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def strike_all(self, rounds: int) -> None:
        """Start the clients; strike them, and the workers, in each round by each kind of fault."""
        clients = self.clients
        for _ in range(self._processes):
            clients.start()

        def all_have_begun() -> bool:
            clients.check_alive()
            return len({line["process"] for line in clients.lines() if "act" in line}) >= self._processes

        eventually(all_have_begun, timeout_s=60)
        faults = [("kill", 0.0), ("kill", 0.0), ("stop", _BLINK_S), ("stop", _ABSENCE_S)]
        faults += [("cut", _BLINK_S), ("cut", _ABSENCE_S)]
        for _ in range(rounds):
            self._chance.shuffle(faults)
            for fault, seconds in faults:
                self._strike(fault, seconds)
                wait(_PAUSE_S)
                clients.check_alive()

    def _strike(self, fault: str, seconds: float) -> None:
        clients = self.clients
        name = self._chance.choice(sorted([*clients.running, *clients.workers]))
        if fault == "cut":
            clients.cut(self._proxy, seconds)
        elif fault == "stop":
            clients.strike(name, signal.SIGSTOP)
            wait(seconds)
            clients.strike(name, signal.SIGCONT)
        else:
            clients.strike(name, signal.SIGKILL)
            if name not in clients.workers:
                clients.start()


def run(module: str, folder: Path, rounds: int, lacking: Callable[[Clients], list[str]]) -> Clients:
    """Run processes of a module for some rounds of faults, and until their history has all it needs; returns that."""
    with FaultyRun(module, folder) as faulty:
        faulty.strike_all(rounds)
        faulty.clients.go_on_until_enough(lacking)
    return faulty.clients


def deaths_on_record(url: str) -> Iterator[tuple[int, float]]:
    """Processes that were declared dead, and when, by the monotonic clock.

    On a busy machine that may be one that nobody has struck: its heartbeats were late.
    """
    # In this order: a process that is held up between the two has others declared dead rather too early.
    now = monotonic()
    from_clock = time.time() - now
    with Redis.from_url(url) as client:
        deaths: Any = client.xrange(Keys().deaths)
    for raw, fields in deaths:
        if fields[b"reason"] != b"drained":
            pid = int(fields[b"incarnation"].rpartition(b":")[2].partition(b"#")[0])
            yield pid, int(raw.partition(b"-")[0]) / 1000 - from_clock


def wait(seconds: float) -> None:
    """Let what was done take effect."""
    until = monotonic() + seconds
    eventually(lambda: monotonic() >= until, timeout_s=seconds + 5)
