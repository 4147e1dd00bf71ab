"""Fixtures that every test may use."""

from collections.abc import Iterator

import pytest
from redis import Redis

from orchestrator.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One Redis server for the whole run. A test that kills or pauses a server starts its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """The URL of an empty database on the shared server."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
