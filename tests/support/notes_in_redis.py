"""What handlers note for a test, in lists of the Redis that they run on."""

from __future__ import annotations

import json
import os
from typing import Any

import redis


def own_redis() -> Any:
    """In a worker: a client of its broker, whose blocking commands wait as long as they ask for."""
    return redis.Redis.from_url(os.environ["ORCHESTRATOR_BROKER_URL"], socket_timeout=None)


def record(key: str, **fields: Any) -> None:
    """In a worker: add a note to a list."""
    own_redis().rpush(key, json.dumps(fields))


def take_notes(url: str, key: str, count: int = 1, timeout_s: float = 30) -> list[Any]:
    """In a test: remove as many notes from a list, and wait for each if need be."""
    with redis.Redis.from_url(url, socket_timeout=None) as client:
        found: list[Any] = [client.blpop([key], timeout=timeout_s) for _ in range(count)]
    assert all(found), found
    return [json.loads(raw) for _, raw in found]
