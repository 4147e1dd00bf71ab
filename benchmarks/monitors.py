"""``make bench-monitors``: a million monitors over a thousand agents on one Redis.

The one that dies holds messages of 1 MiB besides. ``max_block_ms`` is the longest command of the whole run up to the
search for leaks, making the monitors included, by Redis' own figure: ``SLOWLOG`` with a threshold of 1 ms. It includes
the time for which the machine gave the processor to somebody else. What a client that sends PINGs beside it waited at
most is printed too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.machine import machine
from benchmarks.pings import longest_ms, pings, slowest_of
from orchestrator import Orchestrator, load_settings
from orchestrator.embedded import EmbeddedServer
from orchestrator.monitors.check import inconsistencies
from orchestrator.monitors.redis_monitors import RedisMonitors
from orchestrator.transport.redis import commands
from orchestrator.worker.execution.owner import Owner

ROOT = Path(__file__).parent.parent

#: Monitors of one of the agents.
_CROWD = 100_000

#: More scripts than a crowd's DOWNs take, so that Redis forgets none of the long ones.
_SCRIPTS = 100_000


class Bench:
    """Incarnations that nobody runs, and what monitors between them cost."""

    def __init__(self, url: str, agents: int) -> None:
        self.url = url
        self.redis: Any = redis.Redis.from_url(url)
        self.orchestrator = Orchestrator(
            Celery("bench", broker=url, set_as_current=False), load_settings(broker_url=url, monitor_origins="sampled")
        )
        self.owners = [Owner(self._join(f"a{n}"), f"a{n}") for n in range(agents)]
        self.victim = self._join("victim")

    @property
    def monitors(self) -> RedisMonitors:
        """The store."""
        return self.orchestrator.runtime.redis.monitors

    def _join(self, agent: str) -> str:
        store = self.orchestrator.runtime.store
        fields = {"node": agent, "queues": json.dumps([agent]), "agents": json.dumps([agent])}
        raw, _ = store.run(*commands.register(store.keys, f"{agent}@host-{agent}:4711", fields))
        return str(raw.decode())

    def stay_alive(self) -> None:
        """Heartbeats for all of them, in one command."""
        seconds, _ = self.redis.time()
        living = [owner.id for owner in self.owners] + [self.victim]
        self.redis.zadd(
            self.orchestrator.runtime.store.keys.leases, dict.fromkeys(living, seconds * 1000 + 900), xx=True
        )

    def memory(self) -> int:
        """Bytes that Redis uses."""
        return int(self.redis.info("memory")["used_memory"])

    def one_by_one(self, many: int) -> float:
        """Monitors made a second, a call for each."""
        began = time.perf_counter()
        for n in range(many):
            self.monitors.monitor(self.owners[-1 - n % 100].id, f"single-{n}", owner=self.owners[n % 100])
        return many / (time.perf_counter() - began)

    def bulk(self, many: int) -> float:
        """Monitors made a second by ``monitor_many``: each owner monitors all kinds of others."""
        each, count = many // len(self.owners), len(self.owners)
        spent = 0.0
        for number, owner in enumerate(self.owners):
            wanted = [(self.owners[(number + 1 + n) % count].id, f"tag-{n}") for n in range(each)]
            began = time.perf_counter()
            self.monitors.monitor_many(wanted, owner=owner)
            spent += time.perf_counter() - began
        return each * count / spent

    def sweep_s(self) -> float:
        """Seconds that a sweep with nobody dead takes."""
        self.stay_alive()
        began = time.perf_counter()
        self.orchestrator.runtime.redis.sweep()
        return time.perf_counter() - began

    def log_slow_commands(self) -> None:
        """Have Redis remember what takes longer than 1 ms."""
        self.redis.config_set("slowlog-max-len", _SCRIPTS)
        self.redis.config_set("slowlog-log-slower-than", 1000)
        self.redis.slowlog_reset()

    def hold_large(self, count: int) -> None:
        """Have the victim hold messages of 1 MiB."""
        store = self.orchestrator.runtime.store
        stream, k = store.keys.stream("victim", "0"), store.keys
        store.run(*commands.declare(k, "victim", [stream]))
        text = json.dumps({"headers": {"id": "m", "task": "victim.work"}, "body": "x" * 1024 * 1024, "properties": {}})
        for _ in range(count):
            store.run(*commands.publish(stream, k.ledger("victim"), [text]))
            self.redis.xreadgroup(store.group, self.victim, {stream: ">"}, count=1)

    def death(self, crowd: int) -> float:
        """Seconds until all DOWNs of a target that many monitor are recorded."""
        each = crowd // len(self.owners)
        for owner in self.owners:
            self.monitors.monitor_many([(self.victim, n) for n in range(each)], owner=owner)
        self.stay_alive()
        k, store = self.orchestrator.runtime.store.keys, self.orchestrator.runtime.store
        downs = self.monitors.stats().downs
        began = time.perf_counter()
        store.run(*commands.fence(k, self.victim, "killed", "bench"))
        while self.monitors.stats().downs - downs < each * len(self.owners):
            self.stay_alive()
            self.orchestrator.runtime.redis.sweep()
        return time.perf_counter() - began


def compared_sweeps(few: Bench, many: Bench, rounds: int = 100) -> float:
    """What a sweep with nobody dead costs where there are many monitors, against one where there are a thousand.

    They alternate, so that what else the machine does befalls both; the ratio is that of the medians.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times[0].append(few.sweep_s())
        times[1].append(many.sweep_s())
    small, large = statistics.median(times[0]), statistics.median(times[1])
    print(f"  a sweep at 1,000 monitors {small * 1000:.2f} ms, with many {large * 1000:.2f} ms", flush=True)
    return large / small


def deaths(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds from SIGKILL of a real worker to its DOWN in a session's hands, and to its mail running elsewhere.

    A monitor manager sweeps. Of two workers, the one that has a message is killed first, then the one that it went to.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "C_FORCE_ROOT": "1",
        "ORCHESTRATOR_BROKER_URL": url,
    }
    celery = [sys.executable, "-m", "celery", "-A", "benchmarks.monitors_app"]

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*celery, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    quiet = ("-P", "solo", "-l", "ERROR", "--without-gossip", "--without-mingle")
    standing = [
        start("worker", "-n", "manager@%h", "-Q", "monitor-manager", *quiet),
        start("beat", "-l", "ERROR", "-s", f"/tmp/bench-monitors-{os.getpid()}", "--pidfile", ""),
    ]
    from benchmarks.monitors_app import BEGAN, GO, Hold, make

    orchestrator = make(url)
    client = redis.Redis.from_url(url)
    downs, mails = [], []
    workers: list[subprocess.Popen[bytes]] = []
    try:
        _await_manager(orchestrator)
        with orchestrator.monitors.session() as session:
            for number in range(rounds):
                workers = [start("worker", "-n", f"v{number}-{n}@%h", "-Q", "victim", *quiet) for n in range(2)]
                found = _incarnations(orchestrator, [worker.pid for worker in workers])
                for incarnation in found:
                    session.monitor(incarnation)
                orchestrator.send("victim", Hold(), track=False)
                busy, _ = _begun(client, BEGAN)
                # At any moment between two sweeps.
                time.sleep(0.1 + (number * 0.37) % 1.0)
                for worker in sorted(workers, key=lambda worker: worker.pid != busy):
                    killed = time.monotonic()
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()
                    down = session.next_down(timeout_s=20)
                    if down is None or down.reason != "killed":
                        raise SystemExit(f"no DOWN within 20 s, or a wrong one: {down}")
                    downs.append(time.monotonic() - killed)
                    if worker.pid == busy:
                        mails.append(_begun(client, BEGAN)[1] - killed)
                        client.rpush(GO, 1)
                        _await_nothing_held(orchestrator)
    finally:
        for process in (*workers, *standing):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
        for left in Path("/tmp").glob(f"bench-monitors-{os.getpid()}*"):
            left.unlink()
        client.close()
    return downs, mails


def _begun(client: Any, key: str) -> tuple[int, float]:
    said = client.blpop([key], timeout=30)
    if said is None:
        raise SystemExit("the message does not run")
    pid, at_s = said[1].split()
    return int(pid), float(at_s)


def _await_nothing_held(orchestrator: Orchestrator) -> None:
    give_up = time.monotonic() + 30
    while any(row.pending for row in orchestrator.ledger() if row.queue == "victim"):
        if time.monotonic() > give_up:
            raise SystemExit("the message is not settled")
        time.sleep(0.02)


def _await_manager(orchestrator: Orchestrator) -> None:
    """Wait until it sweeps, and is past the time after nobody has swept in which it takes nobody for dead."""
    store = orchestrator.runtime.store
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        now_s, _ = store.client.time()
        by, counts_ms = store.client.hmget(store.keys.sweep, "by", "closed_counts_ms")
        if by == b"monitor-manager" and now_s * 1000 > int(counts_ms or 0):
            return
        time.sleep(0.05)
    raise SystemExit("the monitor manager does not sweep")


def _incarnations(orchestrator: Orchestrator, pids: list[int]) -> list[str]:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        entries = {entry.pid: entry.id for entry in orchestrator.registry.incarnations()}
        if all(pid in entries for pid in pids):
            return [entries[pid] for pid in pids]
        time.sleep(0.05)
    raise SystemExit("the workers did not start")


def p99(times: list[float]) -> float:
    """99 % are at most this."""
    return sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--monitors", type=int, default=1_000_000)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--large", type=int, default=200, help="messages of 1 MiB that the one who dies holds")
    parser.add_argument("--rounds", type=int, default=10, help="deaths of real workers, two at a time")
    options = parser.parse_args()
    print(f"machine: {machine()}")
    with EmbeddedServer() as server, EmbeddedServer() as small, pings(server.url) as waits:
        few = Bench(small.url, options.agents)
        few.stay_alive()
        few.one_by_one(1000)
        bench = Bench(server.url, options.agents)
        bench.log_slow_commands()
        bench.stay_alive()
        create_s = bench.one_by_one(10_000)
        print(f"  one by one: {create_s:.0f}/s", flush=True)
        before, there = bench.memory(), bench.monitors.stats().active
        keeper = _Keeper(bench)
        bulk_s = bench.bulk(options.monitors)
        made = bench.monitors.stats().active - there
        bytes_each = (bench.memory() - before) / made
        print(f"  {made} made in bulk: {bulk_s:.0f}/s, {bytes_each:.0f} bytes each", flush=True)
        sweep_ratio = compared_sweeps(few, bench)
        bench.hold_large(options.large)
        down_s = bench.death(min(_CROWD, options.monitors))
        print(f"  all DOWNs of a target with {_CROWD} monitors recorded after {down_s:.2f} s", flush=True)
        keeper.stop()
        bench.stay_alive()
        began = time.perf_counter()
        leaks = bench.monitors.find_leaks()
        print(f"  a search for leaks: {time.perf_counter() - began:.1f} s, {len(leaks)} found", flush=True)
        bench.stay_alive()
        wrong = inconsistencies(bench.monitors)
        if wrong:
            raise SystemExit("\n".join(wrong[:20]))
        block_ms = longest_ms(bench.redis)
        for name, ms in slowest_of(bench.redis).items():
            print(f"    {name:<26} {ms:7.1f} ms at most")
        bench.redis.flushall()
    print(f"  longest wait of a PING beside it: {max(waits, default=0.0):.1f} ms", flush=True)
    with EmbeddedServer() as server:
        downs, mails = deaths(server.url, options.rounds)
    for what, times in (("DOWNs in a session's hands", downs), ("messages running elsewhere", mails)):
        print(
            f"  {len(times)} {what}: median {statistics.median(times):.2f} s after the kill, worst {max(times):.2f} s"
        )
    print(
        f"bench-monitors: create_s={create_s:.0f} bulk_s={bulk_s:.0f} sweep_ratio={sweep_ratio:.2f} "
        f"down_s={down_s:.2f} max_block_ms={block_ms:.1f} bytes={bytes_each:.0f} dead_to_down_p99_s={p99(downs):.2f}"
    )


class _Keeper:
    """Keeps the incarnations alive while something else is measured."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._done.wait(2.0):
            self._bench.stay_alive()

    def stop(self) -> None:
        """No more."""
        self._done.set()
        self._thread.join()


if __name__ == "__main__":
    main()
