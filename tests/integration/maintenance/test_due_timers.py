"""Timers that are due: one on which Redis refuses to act does not hold up the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Majority, Orchestrator, Run, Workflow
from tests.apps import ballots_app
from tests.apps.ballots_app import VOTERS, says
from tests.support.coordination_under_test import close
from tests.support.eventually import eventually
from tests.support.living_agents import Page, live, mail, make, reader


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = ballots_app.make(redis_url)
    yield made
    close(made)


def tried_again(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of work that Redis has refused."""
    return [text for one in caplog.records if "tried again with each sweep" in (text := one.getMessage())]


def test_a_timer_of_a_broken_key_does_not_hold_up_those_behind_it(
    orchestrator: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: no time-out passed any more, of whatever kind, until somebody repaired the key."""
    redis = orchestrator.runtime.redis
    client: Any = redis.store.client
    ballot = orchestrator.propose(says(), voters=VOTERS, rule=Majority(), timeout_s=0.3)
    client.delete(redis.store.keys.ballot(ballot.id))
    client.set(redis.store.keys.ballot(ballot.id), "of somebody else")
    with orchestrator.monitors.session():
        barrier = orchestrator.barrier("phase", 2, timeout_s=0.4)
        barrier.arrive(party="a")

        def is_broken() -> bool:
            redis.timers.run()
            state = barrier.state()
            return state is not None and state.broken == "timeout"

        eventually(is_broken)
        redis.timers.run()
    # Once, and not in each sweep.
    (warning,) = tried_again(caplog)
    assert warning.startswith(f"timer ballot:{ballot.id} is tried again with each sweep: key")


def two_runs(orchestrator: Orchestrator) -> list[Run]:
    """Runs of a step that waits for an agent."""
    runs = []
    for workflow_id in ("first", "second"):
        flow = Workflow("pages")
        flow.step("page", Page(number=1), needs={"ocr"}, place_within_s=60)
        runs.append(orchestrator.workflows.start(flow, workflow_id=workflow_id))
    return runs


def test_a_run_with_a_broken_key_does_not_hold_up_the_placing_of_others(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: no step was placed any more."""
    orchestrator = make(redis_url, reader("a", "ocr"))
    redis = orchestrator.runtime.redis
    client: Any = redis.store.client
    broken, other = two_runs(orchestrator)
    client.zadd(redis.store.keys.unplaced_runs, {broken.uid: 1, other.uid: 2})
    client.delete(f"{redis.store.keys.run(broken.uid)}:plan")
    client.set(f"{redis.store.keys.run(broken.uid)}:plan", "of somebody else")
    live(orchestrator, "a")
    for _ in range(2):
        redis.runs.upkeep.work_off()
    assert other.status().open == 1
    assert len(mail(orchestrator, "a")["a"]) == 1
    (warning,) = tried_again(caplog)
    assert warning.startswith(f"placing steps of run {broken.uid} is tried again with each sweep: key")
    close(orchestrator)


def test_a_run_with_a_broken_key_does_not_hold_up_the_agendas_of_others(redis_url: str) -> None:
    """Regression: it held up those that a sweep came to after it."""
    orchestrator = make(redis_url, reader("a"))
    redis = orchestrator.runtime.redis
    client: Any = redis.store.client
    broken = [f"broken{number}" for number in range(4)]
    for uid in broken:
        client.set(redis.store.keys.run(uid), "of somebody else")
    client.sadd(redis.store.keys.busy_runs, *broken, "gone")

    def is_worked_off() -> bool:
        # A round may be over before it comes to the last one; the next begins with those that were not refused.
        redis.runs.upkeep.work_off()
        return not client.sismember(redis.store.keys.busy_runs, "gone")

    eventually(is_worked_off)
    close(orchestrator)
