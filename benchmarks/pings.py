"""For how long Redis kept others waiting: by its own log of slow commands, and as another client sees it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import redis

import orchestrator
from orchestrator.monitors.redis_calls import script
from orchestrator.transport.redis.scripts import sha


@contextlib.contextmanager
def pings(url: str) -> Iterator[list[float]]:
    """Another client, which notes how many milliseconds it waits for each answer."""
    waits: list[float] = []
    done = threading.Event()

    def ping() -> None:
        with redis.Redis.from_url(url) as client:
            while not done.is_set():
                began = time.perf_counter()
                client.ping()
                waits.append((time.perf_counter() - began) * 1000)
                # Often enough to meet every long wait, and seldom enough to leave Redis and Python to what is measured.
                done.wait(0.002)

    thread = threading.Thread(target=ping, daemon=True)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()


def _entries(client: Any) -> list[tuple[str, float]]:
    entries: Any = client.slowlog_get(1_000_000)
    named = ((_named(entry["command"]), entry["duration"] / 1000) for entry in entries)
    # Reading the log, and looking at memory, are the benchmark's own.
    return [(name, ms) for name, ms in named if name not in ("SLOWLOG", "INFO", "CONFIG", "FLUSHALL")]


def longest_ms(client: Any) -> float:
    """The longest command that Redis has logged."""
    return max((ms for _, ms in _entries(client)), default=0.0)


def slowest_of(client: Any, count: int = 6) -> dict[str, float]:
    """The scripts and commands that took longest, with their longest time."""
    longest: dict[str, float] = {}
    for name, ms in _entries(client):
        longest[name] = max(ms, longest.get(name, 0.0))
    return dict(sorted(longest.items(), key=lambda item: -item[1])[:count])


def _named(command: bytes) -> str:
    name, _, rest = command.decode("utf-8", "replace").partition(" ")
    return _scripts().get(rest[:40], rest[:8]) if name == "EVALSHA" else name


@cache
def _scripts() -> dict[str, str]:
    package = Path(orchestrator.__file__).parent
    own = {sha(path.stem): path.stem for path in (package / "transport/redis/lua/commands").glob("*.lua")}
    return own | {script(path.stem).sha: path.stem for path in (package / "monitors/lua/commands").glob("*.lua")}
