"""An event that no step waits for is said to be one: by `explain`, and by `workflows post`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from orchestrator import Orchestrator, Workflow
from orchestrator.cli.workflows.group import workflows
from orchestrator.workflows.run import Run
from tests.support.command_line import invoke


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    app = Celery("posts", set_as_current=False)
    app.conf.task_always_eager = True
    yield Orchestrator(app)
    app.close()


@pytest.fixture
def run(orchestrator: Orchestrator) -> Run:
    flow = Workflow("publish")
    flow.wait("approval", event="approved")
    return orchestrator.workflows.start(flow, workflow_id="w1")


def test_explain_names_an_event_that_no_step_waits_for(run: Run) -> None:
    """Regression: the post was done, and nothing said that its event was misspelt."""
    run.post("approve")
    assert run.explain()[1:] == [
        "approval: waits for the event approved",
        "the event approve was posted, and no step waits for it; did you mean 'approved'?",
    ]
    run.post("approved")
    assert run.status().state == "completed"


def test_the_command_warns_of_it(orchestrator: Orchestrator, run: Run) -> None:
    result = invoke(orchestrator.app, workflows, "post", run.id, "approve")
    assert (result.exit_code, result.stdout) == (0, "w1: done\n")
    assert result.stderr == ("Warning: no step of w1 waits for the event approve so far; did you mean 'approved'?\n")
    result = invoke(orchestrator.app, workflows, "post", run.id, "approved")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "w1: done\n", "")
