"""The example of docs/agents.md really runs."""

from __future__ import annotations

from typing import Any

from celery import Celery

from orchestrator import Handled, Orchestrator
from tests.support.worker_process import ROOT

EXAMPLE = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_its_agent_runs() -> None:
    said: dict[str, Any] = {}
    exec(EXAMPLE, said)
    app = Celery("page", set_as_current=False)
    orchestrator = Orchestrator(app)
    app.conf.task_always_eager = True
    orchestrator.host(said["Billing"])
    outcome = orchestrator.send("billing", said["Charge"](order_id="o1", cents=500)).wait(timeout_s=1)
    assert isinstance(outcome, Handled)
    assert outcome.result == "charged 500 at attempt 1"
