"""A kombu connection to the shared server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import Connection

from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from tests.support.bare_broker import kombu_connection


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    """A connection; every incarnation of this process is deregistered after the test."""
    with kombu_connection(redis_url) as connection:
        yield connection
    PROCESS_INCARNATIONS.leave_all()
