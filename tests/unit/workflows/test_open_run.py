"""What a run that goes on says of its result."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import DeliveryTimeout, Orchestrator, Workflow


def test_it_has_no_result_yet_and_the_error_says_what_waits_for_it() -> None:
    """Regression: the error was of a delivery without a recorded outcome after 0 s."""
    app = Celery("open", set_as_current=False)
    app.conf.task_always_eager = True
    flow = Workflow("publish")
    flow.final = flow.wait("approval", event="approved").result
    run = Orchestrator(app).workflows.start(flow, workflow_id="w1")
    with pytest.raises(DeliveryTimeout, match=r"^run w1 has no result yet; run\.wait\(timeout_s\) waits for its end$"):
        run.result()
    with pytest.raises(DeliveryTimeout, match=r"^run w1 has not ended after 0\.01 s; it goes on$"):
        run.wait(0.01)
    run.post("approved", 7)
    assert run.result() == 7
    app.close()
