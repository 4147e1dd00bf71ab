"""Empties a Redis that many tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kombu import pools
from redis import Redis

from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS

if TYPE_CHECKING:
    from orchestrator.transport.liveness.incarnation import Incarnation


def empty(url: str) -> None:
    """Remove all keys, and have no later app get a connection to this server from kombu's pools.

    The pools are the process' own. A pooled connection remembers the queues that it has declared, so an app of a later
    test, which would get the same connection, would not declare them again.

    Nor does an incarnation of this process live on there: for some seconds after its last channel was closed it would
    send heartbeats, find that Redis has lost it, and record that, or be the one that a later test consumes with.
    """
    server = f":{urlsplit(url).port}/"
    for group, connection_of in (
        (pools.producers, lambda pool: pool.connections.connection),
        (pools.connections, lambda pool: pool.connection),
    ):
        for key, pool in list(group.items()):
            if server in connection_of(pool).as_uri():
                dict.pop(group, key)
    for incarnation in incarnations_on(url):
        incarnation.leave()
    with Redis.from_url(url) as client:
        client.flushall()


def incarnations_on(url: str) -> list[Incarnation]:
    """The incarnations of this process on that server."""
    server = f":{urlsplit(url).port}"
    known = list(PROCESS_INCARNATIONS._by_broker.values())
    return [one for one in known if not one.left and one._broker.address.endswith(server)]
