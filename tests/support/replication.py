"""Waiting for a replica, since Redis replicates asynchronously."""

from __future__ import annotations

import redis

from tests.support.eventually import eventually


def wait_until_replicated(primary_url: str) -> None:
    """Return once the primary's one replica is in step and has all that was written before the call."""
    with redis.Redis.from_url(primary_url) as client:
        eventually(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        # WAIT speaks of this client's own writes: without one it returns at once.
        client.set("tests:replicated", "yes")
        eventually(lambda: client.wait(1, 1000) == 1)
