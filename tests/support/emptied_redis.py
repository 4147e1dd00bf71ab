"""Empties a Redis that many tests share."""

from __future__ import annotations

from urllib.parse import urlsplit

from kombu import pools
from redis import Redis


def empty(url: str) -> None:
    """Remove all keys, and have no later app get a connection to this server from kombu's pools.

    The pools are the process' own. A pooled connection remembers the queues that it has declared, so an app of a later
    test, which would get the same connection, would not declare them again.
    """
    server = f":{urlsplit(url).port}/"
    for group, connection_of in (
        (pools.producers, lambda pool: pool.connections.connection),
        (pools.connections, lambda pool: pool.connection),
    ):
        for key, pool in list(group.items()):
            if server in connection_of(pool).as_uri():
                dict.pop(group, key)
    with Redis.from_url(url) as client:
        client.flushall()
