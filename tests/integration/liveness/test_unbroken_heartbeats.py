"""No error ends the thread that sends the heartbeats: without them, a process that is alive is declared dead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator import Orchestrator
from orchestrator.transport.liveness.lease import Lease
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS
from tests.support.bare_broker import kombu_connection
from tests.support.eventually import eventually
from tests.support.kombu_inbox import Inbox


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with kombu_connection(redis_url) as connection:
        yield connection
    PROCESS_INCARNATIONS.leave_all()


class Failing:
    """A heartbeat fails, and then the closing of its connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._renew, self._record_failure = Lease.renew, Lease.record_failure
        self._has_failed = self._has_failed_to_close = False
        #: Heartbeats after both.
        self.beats = 0
        monkeypatch.setattr(Lease, "renew", lambda lease, *args, **options: self._fail_once(lease, *args, **options))
        monkeypatch.setattr(Lease, "record_failure", lambda lease, error: self._fail_to_close_once(lease, error))

    def _fail_once(self, lease: Lease, *args: Any, **options: Any) -> Any:
        if not self._has_failed:
            self._has_failed = True
            raise RedisConnectionError("reset")
        reply = self._renew(lease, *args, **options)
        self.beats += self._has_failed_to_close
        return reply

    def _fail_to_close_once(self, lease: Lease, error: Exception) -> None:
        self._record_failure(lease, error)
        if not self._has_failed_to_close:
            self._has_failed_to_close = True
            raise OSError("bad file descriptor")


def test_a_workers_heartbeats_go_on(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its first heartbeat is sent while it begins to consume.
    Inbox(connection)
    failing = Failing(monkeypatch)
    eventually(lambda: failing.beats > 1)


def test_a_sessions_heartbeats_go_on(shop: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.monitors.session():
        failing = Failing(monkeypatch)
        eventually(lambda: failing.beats > 1)
