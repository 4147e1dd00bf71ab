"""How long a server in the foreground serves on after SIGTERM."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import TimeoutError as RedisTimeoutError

from orchestrator.embedded import __main__ as foreground
from tests.support.many_files import many_open_files


@pytest.fixture
def wakeups() -> Iterator[int]:
    reader, writer = os.pipe()
    yield reader
    os.close(reader)
    os.close(writer)


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the server answers to the question how many clients there are."""
    replies: list[Any] = []

    def info(_: str) -> dict[str, int]:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return {"connected_clients": reply}

    client = contextlib.nullcontext(SimpleNamespace(info=info))
    monkeypatch.setattr(foreground, "Redis", SimpleNamespace(from_url=lambda *_, **__: client))
    monkeypatch.setattr(foreground, "_CLIENTS_CHECK_S", 0.0)
    return replies


def test_a_server_that_is_busy_for_a_second_serves_on_until_its_last_client_has_left(
    replies: list[Any], wakeups: int
) -> None:
    """Regression: one that did not answer in time was taken for one that had stopped, and was stopped."""
    replies += [2, RedisTimeoutError(), 2, RedisConnectionError("max number of clients reached"), 3, 1]
    server: Any = SimpleNamespace(url="redis://x", is_running=True)
    foreground._linger(server, 60.0, wakeups)
    assert replies == []


def test_a_process_with_many_open_files_lingers_too(replies: list[Any]) -> None:
    """Regression: `select.select` refused the number of its pipe."""
    replies += [2, 1]
    server: Any = SimpleNamespace(url="redis://x", is_running=True)
    with many_open_files():
        reader, writer = os.pipe()
        foreground._linger(server, 60.0, reader)
    os.close(reader)
    os.close(writer)
    assert replies == []


def test_one_that_has_ended_is_not_waited_for(replies: list[Any], wakeups: int) -> None:
    server: Any = SimpleNamespace(url="redis://x", is_running=False)
    foreground._linger(server, 60.0, wakeups)
    assert replies == []
