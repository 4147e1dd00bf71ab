"""A new leader is called with the terms before it handles the messages that were waiting, however many they are."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from orchestrator import Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.apps.initialised_app import Free, Limited, Work
from tests.support.notes_in_redis import take_notes
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.initialised_app"


def calls(server: EmbeddedServer, agent: Any, count: int) -> list[str]:
    """What the agent was called with, in order."""
    return [note["what"] for note in take_notes(server.url, f"test:{agent.name}", count)]


@pytest.mark.parametrize("agent", [Free, Limited])
def test_the_terms_come_before_the_messages_that_wait(server: EmbeddedServer, sender: Orchestrator, agent: Any) -> None:
    options = {"name": agent.name, "queues": agent.name}
    for number in range(40):
        sender.send(agent, Work(number=number, stays=number == 39), when_down="queue", priority=0)
    with WorkerProcess(APP, server.url, **options) as first:
        assert calls(server, agent, 41) == ["elected"] + ["work"] * 40
        for number in range(40):
            sender.send(agent, Work(number=number), when_down="queue", priority=0)
        first.kill()
    with redis.Redis.from_url(server.url) as client:
        client.rpush("test:go", "1")
    with WorkerProcess(APP, server.url, **options):
        found = calls(server, agent, 43)
    # What the dead leader had claimed was requeued before.
    at = found.index("deposed")
    assert at <= 5
    assert found[at : at + 2] == ["deposed", "elected"]
    assert set(found[:at] + found[at + 2 :]) == {"work"}
