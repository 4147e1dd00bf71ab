"""The examples of docs/calls.md really run."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from orchestrator import Orchestrator
from tests.support.cluster import NO_REDIS
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "calls.md").read_text(encoding="utf-8")
BLOCKS = [part.split("```")[0] for part in PAGE.split("```python\n")[1:]]


def example(beginning: str, **names: Any) -> dict[str, Any]:
    """The names that the one example with this text makes."""
    (source,) = [block for block in BLOCKS if beginning in block]
    exec(compile(source, "docs/calls.md", "exec"), names)
    return names


def eager() -> Orchestrator:
    """An app of its own, in eager mode."""
    app = Celery("calls", set_as_current=False, broker=NO_REDIS)
    app.conf.task_always_eager = True
    return Orchestrator(app)


def test_a_reply_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    page = example("class Shop", __name__="page")
    orchestrator = eager()
    orchestrator.host(page["Shop"], page["Billing"])
    orchestrator.send("shop", page["Order"](id="o1"))
    assert capsys.readouterr().out == "o1 costs 100\n"
