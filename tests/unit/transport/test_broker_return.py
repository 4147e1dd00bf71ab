"""A process goes back to the first server of its list, whatever happens while that is probed."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.transport.redis import broker
from orchestrator.transport.redis.broker import Broker
from orchestrator.transport.redis.servers import Server
from tests.support.eventually import eventually


class Connection:
    """Reaches the second server only; a probe of the first raises errors before it answers."""

    def __init__(self, *errors: Exception) -> None:
        self.server = ""
        self.errors = list(errors)
        self._sock: Any = None
        self._aim: Server | None = None

    def aim(self, server: Server) -> None:
        self._aim = server

    def address(self) -> str:
        return str(self._aim)

    def dial(self) -> None:
        assert self._aim is not None
        if self._aim.host == "a":
            raise RedisConnectionError("away")

    def is_primary(self, _: Server) -> bool:
        if self.errors:
            raise self.errors.pop(0)
        return True

    def disconnect(self) -> None:
        pass


def test_an_error_of_a_provider_of_credentials_does_not_end_the_return(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the thread ended, and the process never went back."""
    monkeypatch.setattr(broker, "_RETURN_EVERY_S", 0.01)
    made = Broker("x", [Server(host="a", port=1), Server(host="b", port=2)])
    connection = Connection(KeyError("no token"), KeyError("no token"), ValueError("vault"))
    made.connect(connection, connection.dial)
    eventually(lambda: made.current == made.servers[0])
    assert [r.getMessage() for r in caplog.records if "is preferred, does not answer" in r.getMessage()] == [
        "server a:1, which is preferred, does not answer; it is asked again later: KeyError('no token')",
        "server a:1, which is preferred, does not answer; it is asked again later: ValueError('vault')",
    ]
