"""Scripts write what they emit into a stream, where chaos runs: in the order of Redis, and with its time."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis
from celery import Celery

from chaos import redis_record
from orchestrator import Orchestrator, load_settings
from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis import scripts


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scripts, "_read", scripts._read)
    redis_record.install()
    yield
    monkeypatch.undo()
    scripts.script_of.cache_clear()


@pytest.mark.usefixtures("recording")
def test_grants_and_their_ends_are_recorded_in_order() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        app = Celery(uuid4().hex, broker=server.url, set_as_current=False)
        orchestrator = Orchestrator(app, load_settings(broker_url=server.url))
        with orchestrator.monitors.session() as session:
            for _ in range(2):
                with orchestrator.lease("ledger"):
                    pass
        record = redis_record.read_record(client)
        assert [event.kind for event in record] == ["lease_granted", "lease_ended"] * 2
        assert [event.fields[:3] for event in record] == [("lease", "ledger", session.id)] * 4
        fences = [int(event.fields[3]) for event in record]
        assert fences[0] == fences[1] < fences[2] == fences[3]
        assert [event.at_ms for event in record] == sorted(event.at_ms for event in record)
        assert client.pttl(redis_record.RECORD) == -1
        app.close()
