"""What a circuit breaker costs, and how soon it is open for all; part of ``make bench-calls``.

*Redis' time for the check* is that of the scripts that accept a message (at once, later, under an idempotency key) for
a mailbox with a closed breaker, less that for one without: Redis' own figure, of blocks in turns. *Open for all*: one
connection has the outcome recorded that opens the breaker, then several others send: how many of their messages were
accepted, and how long a round trip took. *Guarded sends*, from one thread: a message or task sent behind a breaker that
Redis holds, as a user sends it: ours is ``Orchestrator.send`` to an agent with a breaker, theirs Celery's
``apply_async`` called through pybreaker with its Redis storage, and through purgatory, which send commands of their own
before and after it; *at once* is ``send_many`` of 100. *Guarded commands*: one ``XADD`` with redis-py; ours is the
script that accepts a message, over a connection of this library. Processor time is that of the sending process and of
Redis.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from benchmarks.calls_app import Callee, Ping, make
from orchestrator import Breaker
from orchestrator.core.keys import GROUP, Keys, levels_of
from orchestrator.transport.admission.flow_control import breaker_fields
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.scripts import sha, source

ROOT = Path(__file__).parent.parent
LEVELS = levels_of([0, 3, 6, 9])
KEYS = Keys()

_BREAKER = Breaker(failures=1, window_s=60, open_s=600)
_RATED = Breaker(failure_rate=0.5, least=20, window_s=60, open_s=600, callers=2)

#: Connections that send after a breaker was opened.
_SENDERS = 8

#: Messages of a `send_many`.
_AT_ONCE = 100

#: As long as a small message of an agent is.
_MESSAGE = json.dumps({"headers": {"id": "m", "orc": {"agent": "q", "message": "M"}}, "body": "x" * 400})


class Scripts:
    """The transport's scripts on one connection."""

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url)
        self._ids = itertools.count()

    def run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run one, which is loaded the first time."""
        try:
            return self.redis.evalsha(sha(name), len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self.redis.eval(source(name), len(keys), *keys, *args)

    def publish(self, queue: str) -> Any:
        """Send a message."""
        return self.run(*commands.publish(KEYS.stream(queue, LEVELS[1]), KEYS.ledger(queue), [_MESSAGE]))

    def delay(self, queue: str) -> Any:
        """Send a message that is due later."""
        return self.run(*commands.delay(KEYS, queue, f"{LEVELS[1]}|{next(self._ids)}", _MESSAGE, 600_000))

    def accept(self, queue: str) -> Any:
        """Send a message under an idempotency key."""
        id_ = str(next(self._ids))
        call = commands.accept(
            KEYS, queue, LEVELS[1], _MESSAGE, idempotency_key=KEYS.idempotency("", "t", id_), delivery=id_, member=id_,
            ttl_ms=60_000, pending_ms=60_000,
        )  # fmt: skip
        return self.run(*call)

    def declare(self, queue: str, breaker: Breaker | None) -> None:
        """Begin a mailbox."""
        self.run(*commands.declare(KEYS, queue, [KEYS.stream(queue, level) for level in LEVELS]))
        if breaker is not None:
            fields = {"root": KEYS.root, "queue": queue, "levels": " ".join(LEVELS), "group": GROUP,
                      "outcome_ttl_ms": 60_000, **breaker_fields(breaker)}  # fmt: skip
            self.run(*commands.declare_flow(KEYS, queue, fields, serves=True, has_bound=False, has_breaker=True))


def script_us(scripts: Scripts, send: Callable[[str], Any], queue: str, count: int) -> float:
    """Redis' own time for accepting a message there, in µs."""
    scripts.redis.config_resetstat()
    for _ in range(count):
        send(queue)
    took: float = scripts.redis.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    scripts.redis.delete(KEYS.stream(queue, LEVELS[1]), KEYS.delayed(queue), KEYS.delayed_bodies(queue))
    return took


def check_us(url: str, count: int, blocks: int) -> dict[str, dict[str, float]]:
    """What the check of a closed breaker adds to an accepting script, in µs, by script and kind of breaker."""
    scripts = Scripts(url)
    kinds = {"": None, "failures": _BREAKER, "rates": _RATED}
    for kind, breaker in kinds.items():
        scripts.declare(f"bench-{kind}", breaker)
    added = {}
    for send in (scripts.publish, scripts.delay, scripts.accept):
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(blocks):
            for kind in kinds:
                found[kind].append(script_us(scripts, send, f"bench-{kind}", count))
        medians = {kind: statistics.median(found[kind]) for kind in kinds}
        added[send.__name__] = {kind: medians[kind] - medians[""] for kind in kinds if kind}
    return added


def accepted_after_opening(url: str, rounds: int) -> tuple[int, float]:
    """How many messages were accepted after an opening was recorded; and the ms of a round trip meanwhile."""
    scripts, senders = Scripts(url), [Scripts(url) for _ in range(_SENDERS)]
    accepted, took_ms = 0, []
    for number in range(rounds):
        queue = f"bench-open-{number}"
        scripts.declare(queue, _BREAKER)
        scripts.publish(queue)
        for sender in senders:
            sender.redis.ping()
        reply = scripts.run(*commands.claim(KEYS, [queue], LEVELS, "reader", 1))
        stream = KEYS.stream(queue, LEVELS[reply[1] - 4])
        began = time.perf_counter()
        scripts.run(*commands.settle(stream, KEYS.ledger(queue), "dead timeout\n", [reply[2].decode()]))
        refused = [type(sender.publish(queue)) is list for sender in senders]
        took_ms.append(1000 * (time.perf_counter() - began) / (1 + _SENDERS))
        accepted += refused.count(False)
    return accepted, statistics.median(took_ms)


#: Calls a second, and the µs of processor time that each takes whoever calls, and Redis.
Measured = tuple[float, float]


def rate(operation: Callable[[], Any], seconds: float) -> Measured:
    """Calls a second, and µs of processor time; the first call, which connects, is not counted."""
    operation()
    began, count, until = time.process_time(), 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        operation()
        count += 1
    return count / seconds, 1e6 * (time.process_time() - began) / count


def guarded_rates(url: str, peers: Path, what: str, seconds: float, rounds: int) -> dict[str, Measured]:
    """Guarded commands (``xadd``) or sends (``celery``): ours, and those of the peers, in turns; medians."""
    scripts, orchestrator = Scripts(url), make(url)
    peer = [str(peers / "bin" / "python"), str(ROOT / "benchmarks" / "breaker_peer.py"), url]
    found: dict[str, list[Measured]] = {}

    connection = CommandConnection(orchestrator.runtime.store.pool)
    call = commands.publish(KEYS.stream(Callee.name, LEVELS[1]), KEYS.ledger(Callee.name), [_MESSAGE])

    def command() -> None:
        connection.run(*call)

    def send() -> None:
        orchestrator.send(Callee.name, Ping(number=1))

    def send_many() -> None:
        orchestrator.send_many(Callee.name, [Ping(number=1)] * _AT_ONCE)

    def measure(name: str, run: Callable[[], Measured]) -> None:
        before = redis_cpu_us(scripts.redis)
        calls_s, own_us = run()
        redis_us = (redis_cpu_us(scripts.redis) - before) / (calls_s * seconds)
        found.setdefault(name, []).append((calls_s, own_us + redis_us))

    def run_peer(name: str) -> Measured:
        run = subprocess.run([*peer, name, what, str(seconds)], capture_output=True, text=True, check=True)
        calls_s, own_us = map(float, run.stdout.split())
        return calls_s, own_us

    own: list[tuple[str, Breaker | None]] = [("ours", _BREAKER), ("ours without", None)]
    for number in range(rounds):
        # The first one after the peers is slower than the second.
        for name, breaker in own if number % 2 == 0 else own[::-1]:
            # Both are sent to the same agent.
            scripts.redis.flushdb()
            scripts.declare(Callee.name, breaker)
            measure(name, lambda: rate(command if what == "xadd" else send, seconds))
        if what == "celery":
            scripts.redis.flushdb()
            scripts.declare(Callee.name, _BREAKER)
            measure("ours at once", lambda: of_each(rate(send_many, seconds)))
        scripts.redis.flushdb()
        for name in ("pybreaker", "purgatory", "bare"):
            measure(name, functools.partial(run_peer, name))
    return {
        name: (statistics.median(c for c, _ in all_), statistics.median(us for _, us in all_))
        for name, all_ in found.items()
    }


def of_each(measured: Measured) -> Measured:
    """The same of each message of those that were sent at once."""
    return measured[0] * _AT_ONCE, measured[1] / _AT_ONCE


def redis_cpu_us(client: Any) -> float:
    """The processor time that Redis has used, in µs."""
    used = client.info("cpu")
    return 1e6 * float(used["used_cpu_user"] + used["used_cpu_sys"])


def print_rates(what: str, bare: str, rates: dict[str, Measured]) -> None:
    """Print guarded rates, and the processor time of each."""
    names = {
        "ours": "ours",
        "pybreaker": "pybreaker",
        "purgatory": "purgatory",
        "ours at once": "ours at once",
        "ours without": "ours without a breaker",
        "bare": bare,
    }
    parts = [
        f"{text} {rates[name][0]:,.0f} ({rates[name][1]:.0f} µs of processor time)"
        for name, text in names.items()
        if name in rates
    ]
    print(f"guarded {what} a second: " + ", ".join(parts))
    for name in ("pybreaker", "purgatory"):
        print(
            f"{name}: ours {rates['ours'][0] / rates[name][0]:.1f} times as many, "
            f"for each {rates[name][1] / rates['ours'][1]:.1f} times as much processor time"
        )


def report(url: str, peers: Path) -> dict[str, float]:
    """Measure all, and print it; returns how often ours sends for each send of a peer."""
    for script, kinds in check_us(url, 1000, 9).items():
        print(
            f"closed breaker, added to Redis' time of `{script}`: "
            + ", ".join(f"{us:.1f} µs with {kind}" for kind, us in kinds.items())
        )
    accepted, took_ms = accepted_after_opening(url, 200)
    print(
        f"open for all: {accepted} of {200 * _SENDERS} messages accepted after the failure was recorded; "
        f"{took_ms:.2f} ms a round trip"
    )
    if not (peers / "bin" / "python").exists():
        print("guarded commands: no peers; `make bench-calls` sets them up")
        return {}
    sends = guarded_rates(url, peers, "celery", 2.0, 5)
    print_rates("sends", "Celery's apply_async", sends)
    print_rates("commands", "a bare XADD", guarded_rates(url, peers, "xadd", 2.0, 5))
    return {name: sends["ours"][0] / sends[name][0] for name in ("pybreaker", "purgatory")}
