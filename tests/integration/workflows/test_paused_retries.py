"""A message that waits for its next attempt does not begin during a pause."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.core.workflows.run_state import RunState
from orchestrator.embedded import EmbeddedServer
from tests.support.runs_under_test import QUEUES, RunUnderTest, plan_of


@pytest.fixture
def run(redis_server: EmbeddedServer) -> Iterator[RunUnderTest]:
    step = {"kind": Kind.TASK, "after": [], "when": When.ALL_HANDLED, "undo": False, "options": {}}
    with Redis.from_url(redis_server.url) as client:
        made = RunUnderTest(client, plan_of([step]), OnFailure.STOP, 200)
        made.start(None)
        assert made.claim("q0")
        yield made


def _claimed(run: RunUnderTest) -> bool:
    return any(run.claim(queue) for queue in QUEUES)


def _fail(run: RunUnderTest) -> None:
    [held] = run.held()
    run.retry(held)


@pytest.mark.parametrize("is_first", [True, False])
def test_it_is_due_again_after_the_pause(run: RunUnderTest, is_first: bool) -> None:
    if is_first:
        run.control("pause")
    _fail(run)
    run.control("pause")
    run.time_passes(60_000)
    assert not _claimed(run)
    run.control("resume")
    assert _claimed(run)
    run.settle(run.held()[0], "handled", 1)
    assert run.rule.state is RunState.COMPLETED
    run.check_ledgers()


def test_its_pause_is_not_cut_short(run: RunUnderTest) -> None:
    _fail(run)
    for _ in range(2):
        run.control("pause")
        run.control("resume")
    run.time_passes(500)
    assert not _claimed(run)
    run.time_passes(500)
    assert _claimed(run)


def test_a_cancel_ends_it(run: RunUnderTest) -> None:
    run.control("pause")
    _fail(run)
    run.control("cancel", "0")
    run.time_passes(60_000)
    assert _claimed(run)
    run.requeue(run.held()[0])
    assert run.rule.state is RunState.CANCELLED
    run.check_ledgers()
