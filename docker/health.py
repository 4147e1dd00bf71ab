"""Whether this container does its work: ``python health.py worker|sweep|flower``. Exit status 0 means yes.

Imports nothing but a Redis client, because it runs every few seconds.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any
from urllib.request import urlopen

import redis

#: A heartbeat or a sweep that is older says that nobody makes them any more.
STALE_MS = 10_000


def worker(client: Any, root: str) -> str:
    """A worker on this host has a lease and renews it. One that was declared dead has none."""
    host = socket.gethostname()
    now_s, now_us = client.time()
    for incarnation, beat in client.zrange(f"{root}leases", 0, -1, withscores=True):
        if client.hget(f"{root}incarnation:{incarnation}", "host") == host:
            silent_ms = now_s * 1000 + now_us / 1000 - beat
            return "" if silent_ms < STALE_MS else f"{incarnation} has been silent for {silent_ms:.0f} ms"
    return f"no worker on {host} has a lease"


def sweep(client: Any, root: str) -> str:
    """Beat sends the sweep and the monitor manager does it: neither shows without the other."""
    now_s, now_us = client.time()
    at_ms, by = client.hmget(f"{root}sweep", "at_ms", "by")
    if at_ms is None:
        return "nobody has swept yet"
    since_ms = now_s * 1000 + now_us / 1000 - float(at_ms)
    if by != "monitor-manager" or since_ms >= STALE_MS:
        return f"the last sweep was made {since_ms:.0f} ms ago by {by}"
    return ""


def flower() -> str:
    """Flower answers."""
    with urlopen("http://127.0.0.1:5555/healthcheck", timeout=4) as answer:
        return "" if answer.status == 200 else f"Flower says {answer.status}"


def problem(role: str) -> str:
    """What is wrong, in a line; empty if nothing is."""
    if role == "flower":
        return flower()
    url = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:6379/0")
    root = os.environ.get("ORCHESTRATOR_KEY_PREFIX", "") + "orc:"
    with redis.Redis.from_url(url, socket_timeout=4, decode_responses=True) as client:
        return {"worker": worker, "sweep": sweep}[role](client, root)


if __name__ == "__main__":
    try:
        sys.exit(problem(sys.argv[1]) or 0)
    except (OSError, redis.RedisError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
