"""A test finds nothing of those before it in the Redis that they share."""

from __future__ import annotations

from redis import Redis

from orchestrator.embedded import EmbeddedServer
from tests.support.emptied_redis import empty, incarnations_on
from tests.support.schedules_under_test import Reconcile, scheduling_app


def test_no_incarnation_of_an_earlier_test_lives_on(redis_server: EmbeddedServer, redis_url: str) -> None:
    """Regression: its heartbeats were counted by a later test, and its end was in that one's record of deaths."""
    orchestrator = scheduling_app(redis_url)
    orchestrator.send("ledgers", Reconcile())
    with orchestrator.app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.basic_get("ledgers")
    orchestrator.app.close()
    (lingers,) = incarnations_on(redis_url)
    empty(redis_server.url)
    assert lingers.left
    assert not lingers._thread.is_alive()
    with Redis.from_url(redis_url) as client:
        assert client.keys("*") == []
