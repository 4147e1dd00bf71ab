"""Whoever sends to a Redis that refuses reads the cause first, with every way to send, to look and to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Agent, BrokerUnavailable, Message, Orchestrator, handles
from orchestrator.embedded import EmbeddedServer


class Note(Message):
    text: str = ""


class Clerk(Agent):
    name = "clerk"

    @handles(Note)
    def read(self, message: Note) -> None:
        """Never run here."""


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[Any]:
    with Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def full(admin: Any) -> None:
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", "1mb")


def without_replicas(admin: Any) -> None:
    admin.config_set("min-replicas-to-write", 1)


def replica(admin: Any) -> None:
    admin.replicaof("127.0.0.1", 1)


def forbidden(admin: Any) -> None:
    """Scripts may be run, and what they begin with may not."""
    admin.acl_setuser("default", enabled=True, categories=["+@all"], commands=["-xadd", "-zadd"])


SENDS: dict[str, Callable[[Orchestrator], Any]] = {
    "send": lambda o: o.send("clerk", Note()),
    "send later": lambda o: o.send("clerk", Note(), countdown_s=60),
    "send many": lambda o: o.send_many("clerk", [Note()] * 3),
}


@pytest.mark.parametrize(
    ("refuse", "cause"),
    [
        pytest.param(full, r"Redis is out of memory \(maxmemory", id="OOM"),
        pytest.param(without_replicas, "Redis has too few replicas", id="NOREPLICAS"),
        pytest.param(replica, "Redis is a read-only replica", id="READONLY"),
        pytest.param(forbidden, "Redis forbids", id="NOPERM"),
    ],
)
@pytest.mark.parametrize("way", SENDS)
def test_a_send_that_redis_refuses_begins_with_the_cause(
    server: EmbeddedServer, admin: Any, refuse: Callable[[Any], None], cause: str, way: str
) -> None:
    app = Celery("refused", broker=server.url, set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Clerk)
    orchestrator.send("clerk", Note())
    refuse(admin)
    with pytest.raises(BrokerUnavailable, match=f"^(?:{cause})"):
        SENDS[way](orchestrator)
    app.close()


@pytest.mark.parametrize(
    ("user", "cause"), [("", "Redis requires a password"), (":wrong@", "Redis refuses the user or the password")]
)
def test_a_wrong_password_is_named_first(server: EmbeddedServer, admin: Any, user: str, cause: str) -> None:
    admin.config_set("requirepass", "right")
    url = f"redis://{user}{server.url.rpartition('@')[2].removeprefix('redis://')}"
    app = Celery("refused", broker=url, set_as_current=False)
    with pytest.raises(BrokerUnavailable, match=f"^{cause}"):
        Orchestrator(app).dead_letters.count()
    app.close()
