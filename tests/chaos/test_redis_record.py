"""Scripts write what they emit into a stream, where chaos runs: in the order of Redis, and with its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery

from chaos import redis_record
from orchestrator import Orchestrator, load_settings
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import scripts
from tests.support.eventually import eventually


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scripts, "_read", scripts._read)
    redis_record.install()
    yield
    monkeypatch.undo()
    scripts.script_of.cache_clear()


HELD: dict[str, Callable[[Orchestrator], Any]] = {
    "lease": lambda orchestrator: orchestrator.lease("ledger"),
    "semaphore": lambda orchestrator: orchestrator.semaphore("ledger", 2).acquire(),
    "pool": lambda orchestrator: orchestrator.pool("ledger", ["gpu0"]).checkout(),
    "election": lambda orchestrator: orchestrator.election("ledger").campaign(),
}


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("kind", HELD)
def test_grants_and_their_ends_are_recorded_in_order(kind: str) -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        app = Celery(uuid4().hex, broker=server.url, set_as_current=False)
        orchestrator = Orchestrator(app, load_settings(broker_url=server.url))
        with orchestrator.monitors.session() as session:
            for _ in range(2):
                with HELD[kind](orchestrator):
                    pass
        record = redis_record.read_record(client)
        assert [event.kind for event in record] == ["lease_granted", "lease_ended"] * 2
        assert [event.fields[:3] for event in record] == [(kind, "ledger", session.id)] * 4
        fences = [int(event.fields[3]) for event in record]
        assert fences[0] == fences[1] < fences[2] == fences[3]
        assert [event.at_ms for event in record] == sorted(event.at_ms for event in record)
        assert client.pttl(redis_record.RECORD) == -1
        app.close()


@pytest.mark.usefixtures("recording")
def test_a_term_that_is_handed_over_is_recorded_as_one_that_ends() -> None:
    with (
        EmbeddedServer() as server,
        redis.Redis.from_url(server.url) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        apps = [Celery(uuid4().hex, broker=server.url, set_as_current=False) for _ in range(2)]
        one, other = (Orchestrator(app, load_settings(broker_url=server.url)) for app in apps)
        with one.monitors.session():
            leadership = one.election("scheduler").campaign()

            def succeed() -> None:
                with other.monitors.session():
                    other.election("scheduler").campaign(wait_s=20)

            campaign = pool.submit(succeed)
            (candidate,) = eventually(lambda: one.election("scheduler").candidates())
            assert leadership.resign(to=candidate)
            campaign.result(20)
        ended = [event.fields for event in redis_record.read_record(client) if event.kind == "lease_ended"]
        assert (ended[0][3], ended[0][4]) == (str(leadership.number), "resigned")
        for app in apps:
            app.close()
