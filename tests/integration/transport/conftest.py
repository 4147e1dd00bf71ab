"""What sends to the shared server: a kombu connection, and an ack pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection

from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from orchestrator.transport.redis.ack_pipeline import AckPipeline
from tests.support.bare_broker import kombu_connection


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    """A connection; every incarnation of this process is deregistered after the test."""
    with kombu_connection(redis_url) as connection:
        yield connection
    PROCESS_INCARNATIONS.leave_all()


@pytest.fixture
def pipeline(redis_url: str) -> Iterator[AckPipeline]:
    """An ack pipeline that sends nothing by itself."""
    pool: Any = redis.ConnectionPool.from_url(redis_url)
    pipeline = AckPipeline(pool, flush_s=3600, flush_count=64, group="g")
    yield pipeline
    pipeline.close(wait_s=5)
    pool.disconnect()
