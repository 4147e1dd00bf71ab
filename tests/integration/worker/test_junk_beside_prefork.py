"""As test_junk_at_every_key.py, with the keys that a pool's child processes and their main process use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.eventually import eventually
from tests.support.junk_keys import keys_of, other_type_at, rubbish_at
from tests.support.junk_world import World
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.junk_app"
WORKER = {"pool": "prefork", "concurrency": 4, "queues": "near,far,laned,celery,monitor-manager"}

FAST = ("q:*", "hooks:*", "run:*")
SLOW = (
    "flow:*",
    "delayed:*",
    "outcome:*",
    "cancelling",
    "timeout-overrides",
    "asking:*",
    "run:*:outcomes",
    "run:*:states",
)
CASES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in (*SLOW, "inbox:*", "ask:*", "durations:*"))]


@pytest.fixture
def world(server: EmbeddedServer, worker: WorkerProcess) -> Iterator[World]:
    """One of each thing, begun."""
    made = World(server.url)
    made.begin()
    yield made
    made.close()


@pytest.mark.parametrize("plant", [other_type_at, rubbish_at], ids=["type", "content"])
@pytest.mark.parametrize("name", CASES)
def test_a_pools_children_and_their_worker_go_on(
    world: World, worker: WorkerProcess, name: str, plant: Callable[[Any, str], AbstractContextManager[None]]
) -> None:
    with contextlib.ExitStack() as stack:
        for key in keys_of(world.redis, name, world.marks()):
            stack.enter_context(plant(world.redis, key))
        world.go_on()
        eventually(world.bystanders_go_on, 20, worker.log)
    assert world.lost() == {}
    assert world.untyped == []
    assert worker.is_running, worker.log()
