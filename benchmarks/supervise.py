"""``make bench-supervise``: how soon a killed process runs again, and its messages elsewhere, with two peers.

``respawn_p99_ms`` is the time from SIGKILL until the child runs again, without the child's own start, which is
measured first. ``vs_supervisord`` and ``vs_circus`` are their medians by ours, with the child's own start.
``handover_p99_ms`` is the time from SIGKILL of a worker until the message that it ran runs in another worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from celery import Celery

from benchmarks.machine import machine
from benchmarks.supervise_app import SOCKET, Stay, Staying
from orchestrator import Orchestrator, load_settings
from orchestrator.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent

#: Says that it runs, and then waits.
_CHILD = (
    "import os, socket, sys, time; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)"
    ".sendto(str(os.getpid()).encode(), sys.argv[1]); time.sleep(100000)"
)

_PATIENCE_S = 60.0

#: supervisord and circus take a process for started after a second.
_PEERS_PAUSE_S = 1.3

_CHILDREN = 200
_REPLICAS = 3
_IDLE_S = 3.0


class Bench:
    """One run."""

    def __init__(self, scratch: Path, peers: Path) -> None:
        self._scratch = scratch
        self._peers = peers
        self._address = str(scratch / "reports")
        self._reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reports.bind(self._address)
        self._reports.settimeout(_PATIENCE_S)
        self._child = [sys.executable, "-S", "-E", "-c", _CHILD, self._address]

    def _report(self) -> int:
        """The process that runs now."""
        return int(self._reports.recv(64))

    def own_start_ms(self, count: int) -> float:
        """The median of a child's own start."""
        times = []
        for _ in range(count):
            began = time.monotonic()
            child = subprocess.Popen(self._child)
            self._report()
            times.append(1000 * (time.monotonic() - began))
            child.kill()
            child.wait()
        return statistics.median(times)

    def respawns_ms(self, kills: int, pause_s: float) -> list[float]:
        """From SIGKILL until the child of the supervisor that runs now runs again."""
        pid = self._report()
        times = []
        for _ in range(kills):
            time.sleep(pause_s)
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            pid = self._report()
            times.append(1000 * (time.monotonic() - began))
        return times

    @contextlib.contextmanager
    def supervise(self, children: list[dict[str, object]], **root: object) -> Iterator[subprocess.Popen[bytes]]:
        """Our supervisor, with these children."""
        text = "[supervisor]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in root.items())
        for child in children:
            text += "[[supervisor.children]]\n" + "".join(
                f"{name} = {json.dumps(one)}\n" for name, one in child.items()
            )
        (self._scratch / "orchestrator.toml").write_text(text)
        command = [
            str(Path(sys.executable).parent / "orchestrator"),
            "supervise",
            "--state-dir",
            str(self._scratch / "state"),
        ]
        with self._running([*command, str(self._scratch / "orchestrator.toml")]) as running:
            yield running

    @contextlib.contextmanager
    def supervisord(self) -> Iterator[subprocess.Popen[bytes]]:
        """supervisord, with the child."""
        command = " ".join(f"'{word}'" if " " in word else word for word in self._child)
        (self._scratch / "supervisord.conf").write_text(
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={self._scratch}/pid\n"
            # Its children's logs, which it leaves behind.
            f"childlogdir={self._scratch}\n"
            f"[program:child]\ncommand={command}\nautorestart=true\nstartretries=1000000\n"
        )
        binary = str(self._peers / "bin" / "supervisord")
        with self._running([binary, "-n", "-c", str(self._scratch / "supervisord.conf")]) as running:
            yield running

    @contextlib.contextmanager
    def circus(self) -> Iterator[subprocess.Popen[bytes]]:
        """circusd, with the child."""
        command = " ".join(f"'{word}'" if " " in word else word for word in self._child[1:])
        (self._scratch / "circus.ini").write_text(
            f"[circus]\nendpoint = ipc://{self._scratch}/e\npubsub_endpoint = ipc://{self._scratch}/p\n"
            f"[watcher:child]\ncmd = {self._child[0]}\nargs = {command}\n"
        )
        with self._running([str(self._peers / "bin" / "circusd"), str(self._scratch / "circus.ini")]) as running:
            yield running

    @contextlib.contextmanager
    def _running(self, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        with (self._scratch / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **self._environment}
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)

    @property
    def _environment(self) -> dict[str, str]:
        health = str(self._scratch / "health")
        return {SOCKET: self._address, "C_FORCE_ROOT": "1", "PYTHONPATH": str(ROOT), "ORCHESTRATOR_HEALTH_DIR": health}

    def child(self, name: str = "child") -> dict[str, object]:
        """A child for our supervisor, whose failures are forgotten as soon as it runs."""
        return {"id": name, "kind": "process", "command": self._child, "stable_s": 0}

    def handovers_ms(self, rounds: int) -> tuple[list[float], int]:
        """From SIGKILL of a worker until its message runs in another one, and how often the first was still there."""
        (self._scratch / "health").mkdir(mode=0o700)
        with EmbeddedServer() as server:
            os.environ["ORCHESTRATOR_BROKER_URL"] = server.url
            sender = Orchestrator(
                Celery("bench", broker=server.url, set_as_current=False), load_settings(broker_url=server.url)
            )
            sender.host(Staying)
            worker: dict[str, object] = {"id": "staying", "kind": "worker", "app": "benchmarks.supervise_app"}
            worker |= {"queues": ["staying"], "pool": "solo", "replicas": _REPLICAS, "stable_s": 0}
            times, overlaps = [], 0
            with self.supervise([worker], intensity=1_000_000):
                for number in range(rounds):
                    self._until_workers(sender, _REPLICAS)
                    delivery = sender.send("staying", Stay(mark=str(self._scratch / f"mark-{number}")))
                    pid = self._report()
                    began = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
                    self._report()
                    times.append(1000 * (time.monotonic() - began))
                    overlaps += _is_running(pid)
                    delivery.wait(timeout_s=_PATIENCE_S)
            del os.environ["ORCHESTRATOR_BROKER_URL"]
        return times, overlaps

    @staticmethod
    def _until_workers(sender: Orchestrator, count: int) -> None:
        until = time.monotonic() + _PATIENCE_S
        while len(sender.registry.incarnations()) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"not {count} workers")
            time.sleep(0.05)
        # Each asks for its first message.
        time.sleep(0.5)

    def up_and_down_s(self, count: int) -> tuple[float, float]:
        """Seconds until so many children run, and until all have ended."""
        children = [self.child(f"child-{number}") for number in range(count)]
        began = time.monotonic()
        with self.supervise(children):
            for _ in range(count):
                self._report()
            up_s = time.monotonic() - began
            began = time.monotonic()
        return up_s, time.monotonic() - began


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def ticks(pid: int) -> int:
    """Processor time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def percentile(times: Sequence[float], share: float) -> float:
    """The value below which that share of the times is."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _described(name: str, times: Sequence[float], mb: float) -> str:
    return (
        f"{name:<12} kill to running again: median {statistics.median(times):.1f} ms, "
        f"p99 {percentile(times, 0.99):.1f} ms of {len(times)}; {mb:.1f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each, the figures last."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.supervise", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="of our child (60); of the peers' a fifth of it")
    parser.add_argument("--rounds", type=int, default=20, help="kills of a worker with a message (20)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="the environment of the peers")
    options = parser.parse_args(arguments)
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bench = Bench(Path(scratch), options.peers)
        own_ms = bench.own_start_ms(20)
        print(f"the child's own start: {own_ms:.1f} ms")
        with bench.supervise([bench.child()], intensity=1_000_000) as process:
            ours = bench.respawns_ms(options.kills, 0.05)
            our_mb, before = rss_mb(process.pid), ticks(process.pid)
            time.sleep(_IDLE_S)
            idle = ticks(process.pid) - before
        print(_described("supervise", ours, our_mb), f"; clock ticks used in {_IDLE_S:g} idle s: {idle}")
        medians = {}
        for name, run in (("supervisord", bench.supervisord), ("circus", bench.circus)):
            with run() as process:
                times = bench.respawns_ms(max(5, options.kills // 5), _PEERS_PAUSE_S)
                medians[name] = statistics.median(times)
                print(_described(name, times, rss_mb(process.pid)))
        up_s, down_s = bench.up_and_down_s(_CHILDREN)
        own_s = _CHILDREN * own_ms / 1000
        print(f"{_CHILDREN} children up in {up_s:.1f} s (their own starts: {own_s:.1f} s), down in {down_s:.1f} s")
        handovers, overlaps = bench.handovers_ms(options.rounds)
        print(f"handover: median {statistics.median(handovers):.1f} ms, overlaps of old and new: {overlaps}")
    ratio = {name: median / statistics.median(ours) for name, median in medians.items()}
    print(
        f"bench-supervise: respawn_p99_ms={percentile(ours, 0.99) - own_ms:.1f} "
        f"vs_supervisord={ratio['supervisord']:.1f} vs_circus={ratio['circus']:.1f} "
        f"handover_p99_ms={percentile(handovers, 0.99):.1f} rss_mb={our_mb:.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
