"""Queue lengths in Flower: of the transport alone, and of a Redis that keeps no mailboxes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from flower.utils.broker import Broker
from redis import Redis

from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.flower_queues import counting_streams
from tests.support.bare_broker import BareBroker
from tests.support.emptied_redis import empty
from tests.support.eventually import eventually
from tests.support.flower_process import running_flower


def lengths(url: str, *names: str) -> list[dict[str, Any]]:
    """What Flower's broker page would show, in a Flower that counts streams."""

    async def ask() -> list[dict[str, Any]]:
        broker = Broker(url)
        return await counting_streams(type(broker).queues)(broker, names)

    return asyncio.run(ask())


def test_a_sender_declares_its_mailbox_again_when_a_test_has_emptied_the_server(redis_server: EmbeddedServer) -> None:
    """Regression: kombu's pool gave it the connection of an earlier test, and Flower knew of no mailbox."""
    for _ in range(2):
        empty(redis_server.url)
        broker = BareBroker(redis_server.url)
        broker.send("note", "a")
        assert {"name": "celery", "messages": 1} in lengths(broker.url, "celery")
        broker.close()


def test_with_the_transport_alone_it_shows_what_waits(broker: BareBroker, tmp_path: Path) -> None:
    broker.send("note", "a", "b", "c")
    broker.send("note", "later", countdown=1000)
    with running_flower("tests.apps.bare", broker.url, tmp_path / "log") as flower:
        # Until Flower has opened its first connection, it asks in its own way.
        eventually(lambda: flower.lengths()["celery"] == 4, timeout_s=60, describe=(tmp_path / "log").read_text)


def test_a_redis_without_mailboxes_is_asked_in_flowers_own_way(own_redis_server: EmbeddedServer) -> None:
    url = own_redis_server.url
    with Redis.from_url(url, decode_responses=True) as client:
        client.rpush("celery", "1", "2")
        client.config_resetstat()
        assert lengths(url, "celery", "other") == [
            {"name": "celery", "messages": 2},
            {"name": "other", "messages": 0},
        ]
        asked: Any = client.info("commandstats")
    assert not {"cmdstat_xlen", "cmdstat_xpending", "cmdstat_zcard"} & set(asked)


def test_a_redis_that_refuses_to_tell_its_mailboxes_is_asked_in_flowers_own_way(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.rpush("celery", "1", "2")
        client.acl_setuser(
            "flower", enabled=True, passwords=["+secret"], keys=["celery*"], commands=["+llen", "+multi", "+exec"]
        )
        try:
            url = f"redis://flower:secret@{redis_url.rpartition('@')[2].removeprefix('redis://')}"
            assert lengths(url, "celery") == [{"name": "celery", "messages": 2}]
        finally:
            client.acl_deluser("flower")


@pytest.mark.parametrize("queue", ["shop", "with:colon"])
def test_a_redis_with_mailboxes_is_asked_for_streams(broker: BareBroker, queue: str) -> None:
    broker.app.send_task("note", ("x",), queue=queue)
    assert {"name": queue, "messages": 1} in lengths(broker.url, "celery")
