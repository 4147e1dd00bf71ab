"""What is cut off in its middle: a start and a fork leave nothing that stays, and a step waits for Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import BrokerUnavailable, Expand, Orchestrator, Workflow
from orchestrator.core.keys import Keys
from orchestrator.workflows.redis.scripts import allot_steps
from orchestrator.workflows.steps.arguments import StepArguments
from tests.apps import workflows_app
from tests.support.lost_answers import LostAnswers

STEPS = 3000


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """The same app, by a network that loses nothing."""
    made = workflows_app.make(redis_url)
    yield made
    made.app.close()


def _flow(steps: int = STEPS) -> Workflow:
    flow = Workflow("large")
    approval = flow.wait("approval", event="approved")
    for number in range(steps):
        flow.step(f"s{number}", workflows_app.app.tasks["plain.add"].s(number), after=approval)
    return flow


def _stays(orchestrator: Orchestrator) -> list[str]:
    """Keys of runs that do not expire."""
    client: Any = orchestrator.runtime.store.client
    return [key.decode() for key in client.scan_iter("orc:run:*") if client.ttl(key) == -1]


@pytest.mark.parametrize("cut", ["s900", f"s{STEPS - 1}"])
def test_a_plan_that_is_half_written_expires(
    lossy: Orchestrator, network: LostAnswers, orchestrator: Orchestrator, cut: str
) -> None:
    lossy.workflows.start(_flow(1)).cancel()
    network.lose(1000, cut, done_first=False)
    with pytest.raises(BrokerUnavailable):
        lossy.workflows.start(_flow(), workflow_id="large")
    assert not [one.id for one in orchestrator.workflows.list() if one.id == "large"]
    # The run that was cancelled expires as well.
    assert _stays(orchestrator) == []
    network.lose(0, "", done_first=False)
    run = lossy.workflows.start(_flow(), workflow_id="large")
    assert (run.status().state, run.status().total) == ("running", STEPS + 1)


def test_a_fork_that_is_half_written_expires(
    lossy: Orchestrator, network: LostAnswers, orchestrator: Orchestrator
) -> None:
    flow = Workflow("forked")
    first = flow.wait("first", event="first")
    flow.wait("second", event="second", after=first)
    run = lossy.workflows.start(flow)
    run.post("first", 1)
    # Each time the connection is cut before the command that has expire what was written.
    network.lose(1000, "PEXPIRE", done_first=False)
    with pytest.raises(BrokerUnavailable):
        run.fork(after="first")
    assert [key for key in _stays(orchestrator) if run.uid not in key] == []


def test_a_step_waits_for_its_inputs_while_redis_is_away(
    lossy: Orchestrator, network: LostAnswers, orchestrator: Orchestrator
) -> None:
    """Regression: an attempt failed whose handler had not begun, and a step without retries was dead."""
    flow = Workflow("inputs")
    event = flow.wait("event", event="go")
    flow.step("add", workflows_app.app.tasks["plain.add"].s(event.result))
    run = orchestrator.workflows.start(flow)
    run.post("go", "x" * 5000)
    arguments = StepArguments(lossy.runtime.store)
    network.lose(5, ":outcomes", done_first=False)
    asked = {"uid": run.uid, "id": run.id, "step": "1", "refs": 1}
    assert arguments.fill(asked, [{"$orc": {"step": "0", "path": []}}]) == ["x" * 5000]
    assert network.left == 0


def test_a_function_waits_for_its_history_while_redis_is_away(
    lossy: Orchestrator, network: LostAnswers, orchestrator: Orchestrator
) -> None:
    run = orchestrator.workflows.start(orchestrator.runtime.functions["tests.apps.workflow_functions.squares"], 2)
    header = {"uid": run.uid, "id": run.id, "step": "0"}
    network.lose(5, ":calls", done_first=False)
    lossy.runtime.redis.runs.steps.history(header)
    assert network.left == 0


def test_steps_are_added_once_redis_is_back(
    lossy: Orchestrator, network: LostAnswers, orchestrator: Orchestrator
) -> None:
    flow = Workflow("grows")
    flow.step("split", workflows_app.app.tasks["plain.add"].s(1))
    run = orchestrator.workflows.start(flow)
    header = {"uid": run.uid, "id": run.id, "step": "0", "name": "split"}
    allot = allot_steps(Keys(), "", "", "", 1, 1)[0].sha
    network.lose(5, allot, done_first=True)
    expanded = lossy.runtime.steps.expand(header, Expand([workflows_app.app.tasks["plain.add"].s(2)]))
    assert expanded is not None
    assert network.left == 0
    # Of those that were allotted for nothing none is in the plan.
    plan = orchestrator.runtime.store.client.hkeys(orchestrator.runtime.store.keys.run(run.uid) + ":plan")
    assert len([number for number in plan if number.isdigit()]) == 1 + 2
