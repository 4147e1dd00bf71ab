"""``make bench-coordination``: how soon a killed leader is followed, and a lease handed over; what a lease costs.

``takeover_p99_s`` is the time from SIGKILL of the worker that leads a singleton until another one handles a message;
``vs_kazoo`` is kazoo's median until the next candidate leads (a session of 10 s, Debian's ZooKeeper) by ours, and
``vs_redbeat`` that of celery-redbeat's lock, which is set to 10 s as well: its default, 1,500 s, is printed above.
``handover_p99_ms`` is the time from the release of a lease for which 50 wait, five in each of ten processes, until
one of them has it; ``vs_redis_lock`` is the p99 of redis-py's ``Lock``, which looks every 0.1 s, by ours. The same with
50 threads of one process, which compete for its interpreter besides, is printed above. ``ballot_p99_ms`` is the
time from the end of the handler of the last vote that a ballot of 100 voters needs until whoever waits has the
decision. ``uncontended`` is the rate of acquiring and releasing by that of redis-py's. ``distribute_s`` is the
median time of giving 10,000 items out to 100 agents, the least loaded first.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import redis

from benchmarks.ballots import decided_ms
from benchmarks.coordination_app import Leader, Tick, make
from benchmarks.lease_holders import HOLD_S
from benchmarks.machine import machine
from orchestrator import Orchestrator
from orchestrator.agents.singleton import singleton_election
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis.scripts import script_of

ROOT = Path(__file__).parent.parent

#: Debian's, of the package ``zookeeper``.
_ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")

_PATIENCE_S = 60.0

#: Of kazoo's session, and of RedBeat's lock where it is measured.
_SESSION_S = 10

_WAITING = 50
_PROCESSES = 10


def p99(values: list[float]) -> float:
    """The 99th percentile, or the largest of less than a hundred."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


# -- takeover


class Workers:
    """Three workers that host the singleton."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._count = 0

    def start(self) -> None:
        """Start one more."""
        self._count += 1
        celery = str(Path(sys.executable).with_name("celery"))
        command = [sys.executable, celery, "-A", "benchmarks.coordination_app", "worker", "-P", "solo", "-l", "ERROR"]
        command += ["-n", f"w{self._count}@%h", "--without-gossip", "--without-mingle"]
        environment = {**os.environ, "ORCHESTRATOR_BROKER_URL": self._url, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, env={**environment, "C_FORCE_ROOT": "1"}, cwd=ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._running[process.pid] = process

    def kill(self, pid: int) -> None:
        """SIGKILL one with all of its processes."""
        process = self._running.pop(pid)
        os.killpg(pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """Kill all."""
        for pid in list(self._running):
            self.kill(pid)


def takeovers_s(url: str, kills: int) -> list[float]:
    """From SIGKILL of the leader until another incarnation handles a message."""
    orchestrator, client = make(url), redis.Redis.from_url(url, socket_timeout=_PATIENCE_S)
    workers, stopped = Workers(url), threading.Event()
    line = orchestrator.runtime.store.keys.named_line(singleton_election(Leader.name))

    def send() -> None:
        while not stopped.wait(0.02):
            orchestrator.send(Leader, Tick(), track=False, when_down="queue")

    sender = threading.Thread(target=send, daemon=True)
    times: list[float] = []
    try:
        for _ in range(3):
            workers.start()
        sender.start()
        for _ in range(kills):
            until = time.monotonic() + _PATIENCE_S
            while client.zcard(line) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            # At any time between two heartbeats, and between two sweeps.
            time.sleep(random.uniform(0, 1))
            client.delete("bench:ticks")
            leader = _tick(client)[1]
            killed_at = time.monotonic()
            workers.kill(int(leader.partition("#")[0].rpartition(":")[2]))
            at, by = _tick(client)
            while by == leader or at < killed_at:
                at, by = _tick(client)
            times.append(at - killed_at)
            workers.start()
    finally:
        stopped.set()
        if sender.is_alive():
            sender.join()
        workers.close()
        orchestrator.app.close()
    return times


def _tick(client: Any) -> tuple[float, str]:
    at, by = client.blpop(["bench:ticks"], timeout=_PATIENCE_S)[1].decode().split(" ")
    return float(at), by


def kazoo_takeovers_s(peers: Path, kills: int) -> list[float]:
    """The same of kazoo: until the next candidate leads."""
    with tempfile.TemporaryDirectory() as scratch, _zookeeper(Path(scratch)) as port:
        candidate = str(ROOT / "benchmarks" / "kazoo_candidate.py")
        return peer_takeovers_s([str(peers / "bin" / "python"), candidate, f"127.0.0.1:{port}"], [], kills)


def redbeat_takeovers_s(peers: Path, kills: int) -> tuple[list[float], float]:
    """The same of RedBeat's lock of ten seconds; and for how much longer its lock is held by default if it dies."""
    with EmbeddedServer() as server:
        candidate = [str(peers / "bin" / "python"), str(ROOT / "benchmarks" / "redbeat_candidate.py"), server.url]
        times = peer_takeovers_s(candidate, [str(_SESSION_S)], kills)
        client: Any = redis.Redis.from_url(server.url)
        client.flushall()
        peer_takeovers_s(candidate, ["0"], 0)
        return times, client.pttl("redbeat::lock") / 1000


def peer_takeovers_s(command: list[str], arguments: list[str], kills: int) -> list[float]:
    """From SIGKILL of the candidate that leads until the next one of three says so at the address that it is given."""
    with tempfile.TemporaryDirectory() as scratch:
        address = str(Path(scratch) / "reports")
        reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        reports.bind(address)
        reports.settimeout(_PATIENCE_S)
        running: dict[int, subprocess.Popen[bytes]] = {}

        def start() -> None:
            process = subprocess.Popen([*command, address, *arguments])
            running[process.pid] = process

        times = []
        try:
            for _ in range(3):
                start()
            leader = int(reports.recv(64))
            for _ in range(kills):
                time.sleep(2)
                began = time.monotonic()
                process = running.pop(leader)
                process.kill()
                process.wait()
                leader = int(reports.recv(64))
                times.append(time.monotonic() - began)
                start()
        finally:
            for process in running.values():
                process.kill()
                process.wait()
            reports.close()
        return times


@contextlib.contextmanager
def _zookeeper(scratch: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (scratch / "data").mkdir()
    configuration = scratch / "zoo.cfg"
    configuration.write_text(
        f"tickTime=2000\ndataDir={scratch / 'data'}\nclientPort={port}\nadmin.enableServer=false\n"
    )
    main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
    server = subprocess.Popen(
        ["java", "-cp", str(_ZOOKEEPER), main, str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


# -- leases


def handovers_ms(acquire: Callable[[], Any], release: Callable[[Any], None], count: int) -> list[float]:
    """From a release until the next of 50 threads has it."""
    released_at: list[float] = []
    times: list[float] = []
    left = threading.Semaphore(count)

    def run() -> None:
        while left.acquire(blocking=False):
            held = acquire()
            now = time.monotonic()
            if released_at:
                times.append(1000 * (now - released_at.pop()))
            time.sleep(HOLD_S)
            released_at.append(time.monotonic())
            release(held)

    threads = [threading.Thread(target=run) for _ in range(_WAITING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def handovers_between_processes_ms(url: str, whose: str, count: int) -> list[float]:
    """From a release until one of those who waited then has it, where they are in ten processes.

    Who has released it and comes first once more did not wait, and keeps them waiting. The first turns, which connect,
    and the last ones, when not all others wait any more, do not count.
    """
    client: Any = redis.Redis.from_url(url)
    client.delete("bench:go", "bench:ready", "bench:ended", "bench:end")
    client.set("bench:turns", count + 2 * _WAITING)
    command = [sys.executable, "-m", "benchmarks.lease_holders", url, whose, str(_WAITING // _PROCESSES), str(_WAITING)]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            for _ in range(_PROCESSES)
        ]
        until = time.monotonic() + _PATIENCE_S
        while int(client.get("bench:ready") or 0) < _PROCESSES and time.monotonic() < until:
            time.sleep(0.05)
        client.rpush("bench:go", 1)
        lines = [line for process in running for line in process.communicate()[0].splitlines()]
    turns = sorted((float(acquired), float(released), who) for acquired, released, who in map(str.split, lines))
    times: list[float] = []
    released_at, last = math.inf, ""
    for acquired, released, who in turns[_WAITING:-_WAITING]:
        if who == last:
            continue
        if last:
            times.append(1000 * (acquired - released_at))
        released_at, last = released, who
    return times


def rate(acquire: Callable[[], Any], release: Callable[[Any], None], count: int) -> float:
    """Acquisitions with their releases in a second, by one thread."""
    began = time.monotonic()
    for _ in range(count):
        release(acquire())
    return count / (time.monotonic() - began)


class Leases:
    """Ours and redis-py's, under one name each."""

    def __init__(self, orchestrator: Orchestrator, url: str) -> None:
        self._orchestrator = orchestrator
        self._session = threading.local()
        self._client = redis.Redis.from_url(url)
        self._opened: list[Any] = []

    def ours(self) -> Any:
        """Acquire ours, as a session of this thread."""
        if not hasattr(self._session, "open"):
            self._session.open = self._orchestrator.monitors.session().__enter__()
            self._opened.append(self._session.open)
        return self._orchestrator.lease("bench", wait_s=600).acquire()

    def theirs(self) -> Any:
        """Acquire redis-py's."""
        lock = self._client.lock("bench:lock", timeout=60)
        lock.acquire()
        return lock

    def close(self) -> None:
        """Close the sessions."""
        for session in self._opened:
            session.close()


# -- distribution


def distributions_s(url: str, items: int, agents: int, rounds: int) -> list[float]:
    """The time of giving items out to agents; what is in their mailboxes stays there, so they are unequal."""
    orchestrator, client = make(url), redis.Redis.from_url(url)
    names = [f"taker-{number}" for number in range(agents)]
    orchestrator.host(
        *[type(f"Taker{n}", (Leader,), {"name": name, "singleton": False}) for n, name in enumerate(names)]
    )
    keys = orchestrator.runtime.store.keys
    # They live as far as Redis says: what a worker does with the items is no part of it.
    for name in names:
        client.hset(keys.hosts(name), f"{name}@bench:1#1", 1)
        client.zadd(keys.leases, {f"{name}@bench:1#1": 10**15})
    messages, times = [Tick() for _ in range(items)], []
    for _ in range(rounds):
        began = time.monotonic()
        report = orchestrator.distribute(messages, to=names, strategy="least_loaded")
        times.append(time.monotonic() - began)
        counts = report.counts.values()
        if max(counts) - min(counts) > 1 or client.xlen(keys.stream(names[0], "0")) < items // agents:
            raise SystemExit(f"unequal: from {min(counts)} to {max(counts)} items")
    orchestrator.app.close()
    return times


def release(held: Any) -> None:
    """Release one of either."""
    held.release()


def longest_ms(client: Any) -> float:
    """The longest command so far, in Redis' own figure; the ten longest are printed by their names."""
    slow = sorted(
        ((entry["duration"] / 1000, _name(entry["command"])) for entry in client.slowlog_get(128)), reverse=True
    )
    print("longest commands, ms:", ", ".join(f"{name} {ms:.1f}" for ms, name in slow[:10]) or "none above 1")
    return slow[0][0] if slow else 0.0


def _name(command: bytes) -> str:
    words = command.split(b" ")
    return _scripts().get(words[1].decode(), "?") if words[0].upper() == b"EVALSHA" else words[0].decode()


@functools.cache
def _scripts() -> dict[str, str]:
    """The names of the scripts by their sums."""
    packages = ("orchestrator.transport.redis", "orchestrator.coordination", "orchestrator.monitors")
    named = {}
    for package in packages:
        for file in files(package).joinpath("lua", "commands").iterdir():
            name = file.name.removesuffix(".lua")
            named[script_of(package, name).sha] = name
    return named


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kazoo-kills", type=int, default=10)
    parser.add_argument("--redbeat-kills", type=int, default=5)
    parser.add_argument("--handovers", type=int, default=1000)
    parser.add_argument("--uncontended", type=int, default=3000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--ballots", type=int, default=50)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers")
    asked = parser.parse_args()
    print(machine())
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        client.config_set("slowlog-log-slower-than", 1000)
        orchestrator = make(server.url)
        leases = Leases(orchestrator, server.url)
        rounds = []
        for _ in range(5):
            count = asked.uncontended // 5
            ours, theirs = rate(leases.ours, release, count), rate(leases.theirs, release, count)
            rounds.append(ours / theirs)
            print(f"uncontended: {ours:.0f}/s, redis-py Lock {theirs:.0f}/s")
        uncontended = statistics.median(rounds)
        few = min(200, asked.handovers)
        in_one = {
            "ours": handovers_ms(leases.ours, release, asked.handovers),
            "redis-py Lock": handovers_ms(leases.theirs, release, few),
        }
        ours_ms = handovers_between_processes_ms(server.url, "ours", asked.handovers)
        theirs_ms = handovers_between_processes_ms(server.url, "theirs", asked.handovers)
        between = {"ours": ours_ms, "redis-py Lock": theirs_ms}
        for where, both in (("one process", in_one), (f"{_PROCESSES} processes", between)):
            for name, times in both.items():
                p50 = statistics.median(times)
                print(f"hand-over, {_WAITING} wait in {where}, {name}: p50 {p50:.2f} ms, p99 {p99(times):.2f} ms")
        leases.close()
        orchestrator.app.close()
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        client.config_set("slowlog-log-slower-than", 1000)
        given_s = distributions_s(server.url, asked.items, 100, 7)
        given_block_ms = longest_ms(client)
        print(
            f"distribute {asked.items} items to 100 agents: p50 {statistics.median(given_s):.2f} s, "
            f"from {min(given_s):.2f} to {max(given_s):.2f} s, longest script {given_block_ms:.1f} ms"
        )
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        client.config_set("slowlog-log-slower-than", 1000)
        began = time.monotonic()
        taken_s = takeovers_s(server.url, asked.kills)
        print(
            f"takeover over {asked.kills} kills in {time.monotonic() - began:.0f} s: "
            f"p50 {statistics.median(taken_s):.2f} s, p99 {p99(taken_s):.2f} s, longest {max(taken_s):.2f} s"
        )
        decisions_ms = decided_ms(server.url, asked.ballots)
        print(
            f"ballots of 100 voters, after the last vote needed: p50 {statistics.median(decisions_ms):.1f} ms, "
            f"p99 {p99(decisions_ms):.1f} ms"
        )
        block_ms = longest_ms(client)
    versus = vs_redbeat = "absent"
    if (asked.peers / "bin" / "python").exists() and shutil.which("java") and _ZOOKEEPER.exists():
        theirs_s = kazoo_takeovers_s(asked.peers, asked.kazoo_kills)
        print(f"kazoo, {asked.kazoo_kills} kills: p50 {statistics.median(theirs_s):.2f} s, p99 {p99(theirs_s):.2f} s")
        versus = f"{statistics.median(theirs_s) / statistics.median(taken_s):.1f}"
    if (asked.peers / "bin" / "python").exists():
        theirs_s, left_s = redbeat_takeovers_s(asked.peers, asked.redbeat_kills)
        print(
            f"RedBeat's lock of {_SESSION_S} s, {asked.redbeat_kills} kills: p50 {statistics.median(theirs_s):.2f} s, "
            f"longest {max(theirs_s):.2f} s; by default its lock is held for {left_s:.0f} s more"
        )
        vs_redbeat = f"{statistics.median(theirs_s) / statistics.median(taken_s):.1f}"
    print(
        f"bench-coordination: takeover_p99_s={p99(taken_s):.2f} vs_kazoo={versus} "
        f"vs_redbeat={vs_redbeat} handover_p99_ms={p99(ours_ms):.2f} "
        f"vs_redis_lock={p99(theirs_ms) / p99(ours_ms):.1f} uncontended={uncontended:.2f} "
        f"distribute_s={statistics.median(given_s):.2f} ballot_p99_ms={p99(decisions_ms):.1f} "
        f"max_block_ms={max(block_ms, given_block_ms):.1f}"
    )


if __name__ == "__main__":
    main()
