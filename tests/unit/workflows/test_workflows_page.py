"""The examples of docs/workflows.md really run."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from orchestrator import Agent, Context, Expand, handles
from orchestrator.workflows.definition import Workflow
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
BOOKS, STARTED, REPORT, SCAN, BRANCHES, BINDER, EDITION = [
    part.split("```")[0] for part in PAGE.split("```python\n")[1:]
]

_NUMBERS = count()


def _books() -> dict[str, Any]:
    # Each its own, because Celery knows shared tasks by their names.
    said: dict[str, Any] = {"__name__": f"books{next(_NUMBERS)}"}
    exec(BOOKS, said)
    said["app"].conf.task_always_eager = True
    return said


def test_a_book_is_published() -> None:
    said = _books()
    exec(STARTED, said)
    run = said["run"]
    assert run.status().state == "completed"
    assert run.result("announce") == "3 pages printed"
    assert run.result("page") == ["b1, page 1", "b1, page 2", "b1, page 3"]


def test_it_is_explained_as_the_page_says() -> None:
    said = _books()
    run = said["orchestrator"].workflows.start(said["publish"]("b1"), workflow_id="book-b1")
    lines = run.explain()
    assert lines[0].startswith("publish-book book-b1: running; ")
    assert lines[1:3] == ["approval: waits for the event approved", "print: waits for approval"]
    assert all(f'"{line}"' in PAGE for line in lines[1:3])


def test_an_agent_sees_its_run() -> None:
    said = _books()
    said |= {"Agent": Agent, "Context": Context, "handles": handles}
    exec(REPORT, said)
    said["orchestrator"].host(said["Report"])
    flow: Workflow = said["publish"]("b1")
    flow.step("report", said["Check"](book="b1"), to="report", after="page")
    run = said["orchestrator"].workflows.start(flow, workflow_id="book-b1")
    assert run.result("report") == "book-b1, report: 3 pages"


def test_steps_are_placed_by_what_they_need() -> None:
    said = _books()
    said |= {"Agent": Agent, "handles": handles}
    exec(SCAN, said)
    run = said["orchestrator"].workflows.start(said["scan"]("b1"))
    assert run.result("page") == ["scanned 1", "scanned 2", "scanned 3"]


def test_a_step_is_expanded() -> None:
    said = _books()
    said |= {"Agent": Agent, "Context": Context, "Expand": Expand, "handles": handles}
    exec(EDITION, said)
    said["orchestrator"].host(said["Edition"])
    flow = Workflow("editions")
    flow.step("split", said["Check"](book="b1"), to="edition")
    run = said["orchestrator"].workflows.start(flow)
    assert run.result("split") == ["b1, page 1", "b1, page 2", "b1, page 3"]
    assert [step.name for step in run.steps()][:2] == ["split", "split/Page-1"]


def test_a_failure_is_branched_on() -> None:
    said = _books()
    exec(BRANCHES, said)
    run = said["orchestrator"].workflows.start(said["announce_anyway"]("b1"))
    states = {step.name: step.state for step in run.steps()}
    assert states == {"check": "handled", "print": "dead", "recall": "handled", "announce": "handled"}
    assert run.status().state == "completed"


@pytest.mark.parametrize(("pages", "result"), [(20, "stapled"), (80, [2])])
def test_data_is_branched_on(pages: int, result: Any) -> None:
    said = _books()
    exec(BINDER, said)
    said["orchestrator"].host(said["Binder"])
    flow = Workflow("bound")
    flow.step("bind", said["Length"](book="b1", pages=pages), to="binder")
    assert said["orchestrator"].workflows.start(flow).result("bind") == result
