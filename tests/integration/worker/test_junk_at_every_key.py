"""Whatever something else writes at any key of this library: no message is lost, no worker ends, others go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.redis.examined_keys import examine_keys
from tests.support.eventually import eventually
from tests.support.junk_keys import keys_of, names, other_type_at, rubbish_at
from tests.support.junk_world import World
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.junk_app"
WORKER = {"pool": "threads", "concurrency": 8, "queues": "near,far,laned,celery,monitor-manager"}

#: What every send, every claim or every sweep needs: with another type there, users get an error that names it.
NEEDED_BY_ALL = {"last-publish:*", "queues", "leases", "sweep", "dying", "idempotency:agent:2:*"}


#: One of each kind; the others are tested in the slow run.
FAST = {
    *(
        "q:*",
        "flow:*",
        "permits:*",
        "ledger:*",
        "outcome:*",
        "letters:kind:*",
        "incarnation:*",
        "not-polling",
        "monitors",
    ),
    *("run:*", "schedule:*", "named-terms:election:*", "ballot:*", "barrier:*", "hierarchies", "timers"),
}

CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names()]


@pytest.fixture
def world(server: EmbeddedServer, worker: WorkerProcess) -> Iterator[World]:
    """One of each thing, begun."""
    made = World(server.url)
    made.begin()
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_a_key_of_another_type(world: World, worker: WorkerProcess, name: str) -> None:
    store = world.orchestrator.runtime.store
    keys = keys_of(world.redis, name, world.marks())
    with contextlib.ExitStack() as stack:
        for key in keys:
            stack.enter_context(other_type_at(world.redis, key))
        broken = store.ask(lambda call: examine_keys(call, store.keys)).broken
        world.go_on()
        if name not in NEEDED_BY_ALL:
            letters = not name.startswith(("dead-letters", "letters:"))
            eventually(lambda: world.bystanders_go_on(letters=letters), 20, lambda: worker.log()[-8000:])
    assert {key for key, *_ in broken} >= set(keys), "`doctor` names them"
    assert world.lost() == {}
    assert world.untyped == []
    assert worker.is_running, worker.log()


@pytest.mark.parametrize("name", CASES)
def test_rubbish_in_a_key(world: World, worker: WorkerProcess, name: str) -> None:
    with contextlib.ExitStack() as stack:
        for key in keys_of(world.redis, name, world.marks()):
            stack.enter_context(rubbish_at(world.redis, key))
        world.go_on()
        eventually(world.bystanders_go_on, 20, lambda: worker.log()[-8000:])
    assert world.lost() == {}
    assert world.untyped == []
    assert worker.is_running, worker.log()


def test_the_fast_ones_are_among_all_names() -> None:
    assert set(names()) >= FAST | NEEDED_BY_ALL
