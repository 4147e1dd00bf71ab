"""A user with the few rights that ``docs/transport.md`` names may do all that the library does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from redis import Redis

from orchestrator import Agent, CancelResult, Message, Orchestrator, Workflow, handles
from orchestrator.transport.redis import commands
from tests.support.eventually import eventually

PAGE = Path(__file__).parents[3] / "docs" / "transport.md"


class Note(Message):
    text: str = ""


class Clerk(Agent):
    name = "clerk"

    @handles(Note)
    def read(self, message: Note) -> None:
        """Never run here."""


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    found = re.search(r"```\n(on >password .*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    with Redis.from_url(redis_url) as client:
        known = b"clientsetinfo" in client.execute_command("COMMAND")
        rights = [right for right in found[1].split() if known or right != "+client|setinfo"]
        client.execute_command("ACL", "SETUSER", "few", *rights)
        url = f"redis://few:password@127.0.0.1:{urlsplit(redis_url).port}/0"
        app = Celery("few", broker=url, set_as_current=False)
        made = Orchestrator(app)
        made.host(Clerk)
        yield made
        app.close()
        client.acl_deluser("few")


def cancel_one(orchestrator: Orchestrator) -> None:
    assert orchestrator.send("clerk", Note(), countdown_s=60).cancel() is CancelResult.CANCELLED
    assert orchestrator.send("clerk", Note()).cancel() is CancelResult.CANCELLED


def broadcast(orchestrator: Orchestrator) -> None:
    assert [one.refusal for one in orchestrator.broadcast(["clerk"], Note()).receipts] == ["down"]


def time_out_a_step(orchestrator: Orchestrator) -> None:
    flow = Workflow("waits")
    flow.wait("approval", event="never", timeout_s=0.01)
    run = orchestrator.workflows.start(flow)

    def has_failed() -> bool:
        orchestrator.runtime.redis.runs.controls.control(run.uid, "time", "0")
        return run.status().state == "failed"

    eventually(has_failed)


def dead_letter_one_without_an_outcome(orchestrator: Orchestrator) -> None:
    store = orchestrator.runtime.store
    stream = store.keys.stream("clerk", "0")
    store.client.xgroup_create(stream, store.group, mkstream=True)
    call = commands.dead_letter(store.keys, "clerk", stream, "1-0", "{}", "not supervised", "", ttl_ms=1000)
    assert store.run(*call) == 0


def release_a_lease(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session():
        assert orchestrator.lease("a").acquire().release()


#: What needs no worker, and once was called with a key that has no name.
ACTS: dict[str, Callable[[Orchestrator], Any]] = {
    "cancel": cancel_one,
    "broadcast": broadcast,
    "time-out": time_out_a_step,
    "dead letter": dead_letter_one_without_an_outcome,
    "release": release_a_lease,
}


@pytest.mark.parametrize("act", ACTS)
def test_a_user_with_few_rights_may(orchestrator: Orchestrator, act: str) -> None:
    ACTS[act](orchestrator)
