"""``make bench-schedules``: what the scheduler does with a hundred thousand schedules, beside RedBeat in the same run.

Both sides alternate on one server; each figure is a median of the rounds. What is fired is counted by the server:
entries of our mailbox' stream have its time, RedBeat's list is looked at by its length. No worker consumes on either
side, so that the schedulers are compared and not the workers. ``max_block_ms`` is the longest script of our side by
Redis' own figure (``SLOWLOG``), which includes the time for which the machine gave the processor to somebody else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis

from benchmarks.machine import machine
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import encode_definition
from orchestrator.core.schedules.rule import begin
from orchestrator.core.schedules.state import Decision
from orchestrator.core.schedules.triggers import Interval
from orchestrator.core.schedules.values import TaskRecipient
from orchestrator.embedded import EmbeddedServer
from orchestrator.schedules.redis import scripts
from orchestrator.schedules.redis.stored_state import change_of
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.store import Store

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers" / "bin"

_HOUR_MS = 3_600_000

STREAM = "orc:q:0:celery"


class Bench:
    """One server, and the processes that are measured on it."""

    def __init__(self, url: str, peers: Path) -> None:
        self.url = url
        self.redis: Any = redis.Redis.from_url(url)
        self.peers = peers
        self.environment = {
            **os.environ,
            "BENCH_URL": url,
            "ORCHESTRATOR_BROKER_URL": url,
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATOR_SCHEDULE_HISTORY": "1000",
        }

    @property
    def store(self) -> Store:
        """Our side's Redis."""
        os.environ.update(self.environment)
        from benchmarks.schedules_app import orchestrator

        return orchestrator.runtime.store

    def now_ms(self) -> int:
        """Redis' time."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def fill(self, number: int, due_ms: Callable[[int], int]) -> None:
        """Add our schedules, each due at its time."""
        store = self.store
        declarations = []
        for n in range(number):
            definition = ScheduleDefinition(
                id=f"s{n:06d}", recipient=TaskRecipient("noop", (n,)), trigger=Interval(_HOUR_MS)
            )
            state = begin(definition, due_ms(n) - _HOUR_MS)
            change = change_of(Decision(state))
            text = encode_definition(definition)
            declarations.append(scripts.Declaration(definition.id, "", text, state.due_ms, change=change))
            if len(declarations) == scripts.MOST_AT_ONCE:
                self._declare(store, declarations)
                declarations = []
        if declarations:
            self._declare(store, declarations)

    def _declare(self, store: Store, declarations: list[scripts.Declaration]) -> None:
        attempt = Callers().attempt(store.keys)
        call = scripts.declare_schedules(store.keys, declarations, most=10**7, most_history=1000, attempt=attempt)
        store.run(*call)

    @contextmanager
    def beat(self) -> Iterator[subprocess.Popen[bytes]]:
        """Our beat, once it has the turn."""
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.schedules_app", "-q", "beat", "-l", "ERROR"]
        with _running([*command, "--pidfile", ""], self.environment) as process:
            self.until(lambda: self.redis.hget("orc:scheduler", "of"))
            yield process

    @contextmanager
    def redbeat(self) -> Iterator[None]:
        """RedBeat."""
        app = "benchmarks.contenders.on_redbeat"
        command = [str(self.peers / "python"), "-m", "celery", "-A", app, "-q", "beat", "-l", "ERROR"]
        with _running([*command, "-S", "redbeat.RedBeatScheduler", "--pidfile", ""], self.environment):
            yield

    def until(self, holds: Callable[[], Any], timeout_s: float = 300) -> Any:
        """Poll until something holds."""
        give_up_at = time.monotonic() + timeout_s
        while not (found := holds()):
            if time.monotonic() > give_up_at:
                raise SystemExit("it took too long")
            time.sleep(0.002)
        return found

    def accepted_ms(self) -> list[int]:
        """When each message of our side was accepted."""
        times: list[int] = []
        last = "-"
        while page := self.redis.xrange(STREAM, last, "+", count=10_000):
            times += [int(entry.partition(b"-")[0]) for entry, _ in page]
            last = f"({page[-1][0].decode()}"
        return times


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def at_once(bench: Bench, number: int) -> tuple[float, float]:
    """Fires a second, and ms until the first, of schedules that are all due at one moment."""
    bench.redis.flushdb()
    with bench.beat():
        due_ms = bench.now_ms() + max(5000, number // 3)
        bench.fill(number, lambda _: due_ms)
        if bench.now_ms() > due_ms:
            raise SystemExit("filling took too long; the schedules were due before")
        bench.until(lambda: bench.redis.xlen(STREAM) >= number)
    times = bench.accepted_ms()
    return number / ((max(times) - due_ms) / 1000), min(times) - due_ms


def redbeat_at_once(bench: Bench, number: int) -> tuple[float, float]:
    """The same of RedBeat."""
    bench.redis.flushdb()
    python, module = str(bench.peers / "python"), "benchmarks.contenders.on_redbeat"
    filling_s = 3 + number / 300
    due_ms = bench.now_ms() + round(filling_s * 1000)
    run = [python, "-m", module, "fill", str(number), str((due_ms - bench.now_ms()) / 1000)]
    subprocess.run(run, env=bench.environment, cwd=ROOT, check=True)
    with bench.redbeat():
        bench.until(lambda: bench.redis.llen("celery") > 0)
        first_ms = bench.now_ms() - due_ms
        bench.until(lambda: bench.redis.llen("celery") >= number)
        return number / ((bench.now_ms() - due_ms) / 1000), first_ms


def spread(bench: Bench, number: int, seconds: float) -> float:
    """The 99th percentile of lateness in ms, of schedules that are due over so many seconds."""
    bench.redis.flushdb()
    with bench.beat():
        start_ms = bench.now_ms() + max(5000, number // 3)
        due = [start_ms + round(n * seconds * 1000 / number) for n in range(number)]
        bench.fill(number, due.__getitem__)
        bench.until(lambda: bench.redis.xlen(STREAM) >= number)
    late = sorted(time - nominal for time, nominal in zip(sorted(bench.accepted_ms()), due, strict=True))
    return late[int(len(late) * 0.99)]


def idle(bench: Bench, number: int, seconds: float) -> tuple[float, float]:
    """Commands a second while nothing is due, and bytes of each schedule."""
    bench.redis.flushdb()
    before = int(bench.redis.info("memory")["used_memory"])
    bench.fill(number, lambda n: bench.now_ms() + 7 * _HOUR_MS if n == 0 else _far(n))
    size = (int(bench.redis.info("memory")["used_memory"]) - before) / number
    with bench.beat():
        time.sleep(3)
        first = _sent(bench.redis)
        time.sleep(seconds)
        last = _sent(bench.redis)
    return (last - first) / seconds, size


def _sent(client: Any) -> int:
    """Commands that a beat sends; what a script runs is counted by the server, too."""
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "subscribe", "pexpire"))


def _far(number: int) -> int:
    return 4_000_000_000_000 + number


def takeover(bench: Bench, kills: int) -> list[float]:
    """Seconds from the SIGKILL of the beat whose turn it is until another one fires."""
    bench.redis.flushdb()
    store, gaps = bench.store, []
    with bench.beat() as one, bench.beat() as other:
        alive = [one, other]
        definition = ScheduleDefinition(id="tick", recipient=TaskRecipient("noop", (0,)), trigger=Interval(100))
        state = begin(definition, bench.now_ms())
        declaration = scripts.Declaration(
            "tick", "", encode_definition(definition), state.due_ms, change=change_of(Decision(state))
        )
        bench._declare(store, [declaration])
        for _ in range(kills):
            of = bench.redis.hget("orc:scheduler", "of").decode()
            victim = next(process for process in alive if f":{process.pid}:" in of)
            bench.until(lambda: bench.redis.xlen(STREAM) > 3)
            victim.kill()
            victim.wait()
            killed_ms = bench.now_ms()
            last = bench.redis.xrevrange(STREAM, count=1)[0][0]
            bench.until(partial(_has_changed, bench.redis, last))
            entry = bench.redis.xrange(STREAM, f"({last.decode()}", "+", count=1)[0][0]
            gaps.append((int(entry.partition(b"-")[0]) - killed_ms) / 1000)
            alive.remove(victim)
            alive.append(_start_another(bench))
        for process in alive:
            process.kill()
            process.wait()
    return gaps


def _has_changed(client: Any, last: bytes) -> bool:
    return bool(client.xrevrange(STREAM, count=1)[0][0] != last)


def _start_another(bench: Bench) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.schedules_app", "-q", "beat", "-l", "ERROR"]
    process = subprocess.Popen([*command, "--pidfile", ""], env=bench.environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    # It declares that it lives once it looks for its turn.
    bench.until(lambda: any(f":{process.pid}:".encode() in name for name in bench.redis.hkeys("orc:schedulers")))
    return process


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--peer-schedules", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spread-s", type=float, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--peers", type=Path, default=PEERS, help="the environment with celery-redbeat")
    options = parser.parse_args()
    print(machine())
    with EmbeddedServer() as server:
        bench = Bench(server.url, options.peers)
        bench.redis.config_set("slowlog-log-slower-than", 1000)
        bench.redis.config_set("slowlog-max-len", 100_000)
        slowest_us = 0
        ours, theirs = [], []
        for _ in range(options.rounds):
            bench.redis.slowlog_reset()
            ours.append(at_once(bench, options.schedules))
            slowest_us = max(slowest_us, _slowest(bench.redis))
            theirs.append(redbeat_at_once(bench, options.peer_schedules))
            (rate, first), (peer_rate, peer_first) = ours[-1], theirs[-1]
            print(f"ours {rate:.0f}/s, first {first:.0f} ms; RedBeat {peer_rate:.0f}/s, first {peer_first:.0f} ms")
        bench.redis.slowlog_reset()
        late_ms = spread(bench, options.schedules, options.spread_s)
        slowest_us = max(slowest_us, _slowest(bench.redis))
        commands_s, size = idle(bench, options.schedules, 10)
        gaps = sorted(takeover(bench, options.kills))
        publish = [str(options.peers / "python"), "-m", "benchmarks.contenders.on_redbeat", "publish", "2000"]
        alone = float(subprocess.run(publish, env=bench.environment, cwd=ROOT, check=True, capture_output=True).stdout)
    fires_s = statistics.median(one for one, _ in ours)
    peer_s = statistics.median(one for one, _ in theirs)
    first_ms = statistics.median(one for _, one in ours)
    print(f"RedBeat {peer_s:.0f} fires/s; of that side, publishing alone reaches {alone:.0f}/s")
    print(f"idle with {options.schedules} schedules: {commands_s:.1f} commands/s")
    print(
        f"bench-schedules: fires_s={fires_s:.0f} vs_redbeat={fires_s / peer_s:.1f} first_ms={first_ms:.0f} "
        f"late_p99_ms={late_ms:.0f} max_block_ms={slowest_us / 1000:.1f} takeover_p99_s={gaps[-1]:.2f} bytes={size:.0f}"
    )


def _slowest(client: Any) -> int:
    """The longest script, in µs; other commands are the benchmark's own."""
    entries = client.slowlog_get(100_000)
    return max((entry["duration"] for entry in entries if entry["command"].startswith(b"EVALSHA")), default=0)


if __name__ == "__main__":
    main()
