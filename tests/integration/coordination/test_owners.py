"""Whose a lease is on a worker: the innermost of the handler that runs and the session that is open here."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Handled, Message
from tests.apps import owners_app
from tests.apps.owners_app import LeaveSessionOpen, Take, TakeInSession, TakeInTask
from tests.support.coordination_under_test import close
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.owners_app"


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_the_innermost_of_handler_and_session_owns_what_is_acquired(redis_url: str, pool: str) -> None:
    orchestrator = owners_app.make(redis_url)

    def result_of(recipient: Any, message: Message | None = None) -> Any:
        outcome = orchestrator.send(recipient, message).wait(30)
        assert isinstance(outcome, Handled), outcome
        held = [holder.owner for state in orchestrator.coordination.leases() for holder in state.holders]
        # What has no block ends with its attempt.
        assert not held, held
        return outcome.result

    with WorkerProcess(APP, redis_url, pool=pool, concurrency=1) as worker:
        # A session that the worker's process opens has a lease, too.
        incarnation, task = worker.incarnation, orchestrator.app.tasks["take"]
        assert result_of("taker", Take(name="a")) == incarnation
        assert result_of(task.s("a")) == incarnation
        # Tasks that a handler runs inline are part of its attempt.
        assert result_of("taker", TakeInTask(name="a")) == [incarnation] * 2
        session, within, afterwards = result_of("taker", TakeInSession(name="a"))
        assert session == within
        assert afterwards == incarnation
        # A session that a handler leaves open is not the owner of what the next one acquires.
        assert result_of("taker", LeaveSessionOpen()).startswith("session@")
        assert result_of("taker", Take(name="a")) == incarnation
        assert result_of(task.s("a")) == incarnation
        # Nor is one of this process, in which it is sent.
        with orchestrator.monitors.session() as mine, orchestrator.lease("a") as lease:
            assert lease.owner == mine.id
            assert task.apply(["b"]).get() == mine.id, "a task that a script runs inline is no message"
            assert result_of_other(orchestrator, "c") == incarnation
    close(orchestrator)


def result_of_other(orchestrator: Any, name: str) -> Any:
    outcome = orchestrator.send("taker", Take(name=name)).wait(30)
    assert isinstance(outcome, Handled), outcome
    return outcome.result
