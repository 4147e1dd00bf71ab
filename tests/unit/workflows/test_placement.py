"""Steps that say what they need: their faults, and eager mode."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from orchestrator import (
    ITEM,
    Agent,
    Dead,
    InvalidDeclaration,
    InvalidWorkflow,
    Message,
    NoAgents,
    Orchestrator,
    Workflow,
    handles,
)
from orchestrator.cli.workflows.group import workflows
from orchestrator.core.workflows.placement import least_loaded, offers
from tests.apps import placement_app
from tests.apps.placement_app import AGENTS, Book, Page, Recall
from tests.support.command_line import invoke


@pytest.fixture
def orchestrator() -> Orchestrator:
    placement_app.NOTED.clear()
    return placement_app.make(None, *AGENTS, eager=True)


def _nothing() -> None: ...


def _fail() -> None:
    raise ValueError("it fails")


def _one(**options: Any) -> Workflow:
    flow = Workflow("one")
    flow.step("page", Page(number=1), **options)
    return flow


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"needs": "ocr"}, "needs='ocr'; allowed: a set of names"),
        ({"needs": set()}, r"needs=set\(\); allowed: a set of names"),
        ({"needs": {"o c r"}}, "needs={'o c r'}; allowed: a set of names"),
        ({"needs": {"ocr"}, "to": "reader-a"}, "to='reader-a' with needs; allowed: one of them"),
        ({"needs": {"ocr"}, "place_within_s": 0}, "place_within_s=0; allowed: seconds above 0"),
        ({"to": "reader-a", "place_within_s": 5}, "place_within_s without needs"),
        ({}, "to is missing; allowed: the agent that handles the message, or what it needs"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(orchestrator: Orchestrator, options: Any, fault: str) -> None:
    with pytest.raises(InvalidWorkflow, match=fault):
        orchestrator.workflows.start(_one(**options))


def test_a_task_has_no_needs(orchestrator: Orchestrator) -> None:
    task = orchestrator.app.task(name="plain", shared=False)(_nothing)
    flow = Workflow("one")
    flow.step("plain", task.s(), needs={"ocr"})
    with pytest.raises(InvalidWorkflow, match="needs with a task; allowed: a message"):
        orchestrator.workflows.start(flow)


def test_what_nobody_offers_is_refused_with_what_is_offered(orchestrator: Orchestrator) -> None:
    with pytest.raises(NoAgents) as raised:
        orchestrator.workflows.start(_one(needs={"ocr", "gpus"}))
    assert str(raised.value) == (
        "step 'page': no known agent handles Page and offers gpus, ocr; agents that handle it, and what they offer: "
        "reader-a (gpu, ocr), reader-b (gpu, ocr), reader-c (gpu, ocr); did you mean 'gpu'?; with place_within_s the "
        "step waits for one"
    )
    assert raised.value.needs == ("gpus", "ocr")


def test_capabilities_are_names() -> None:
    class Eyes(Agent):
        name = "eyes"
        capabilities = "ocr"

        @handles(Page)
        def read(self, message: Page) -> None: ...

    with pytest.raises(InvalidDeclaration, match=r"Eyes\.capabilities='ocr'; allowed: a set of names"):
        placement_app.make(None, Eyes, eager=True)


def test_a_message_that_only_some_handle_goes_to_these(orchestrator: Orchestrator) -> None:
    class Cover(Message):
        title: str

    class Binder(Agent):
        name = "binder"
        capabilities = ("ocr",)

        @handles(Cover)
        def bind(self, message: Cover) -> str:
            return message.title

    orchestrator.host(Binder)
    flow = Workflow("cover")
    flow.step("cover", Cover(title="Emma"), needs={"ocr"})
    assert orchestrator.workflows.start(flow).result("cover") == "Emma"


def test_eager_mode_spreads_a_map_by_the_same_rule(orchestrator: Orchestrator) -> None:
    flow = Workflow("book", on_failure="compensate")
    book = flow.step("book", Book(pages=30), to="lister")
    flow.map("page", Page, over=book.result, fields={"number": ITEM}, needs={"ocr", "gpu"}, undo=Recall(number=7))
    run = orchestrator.workflows.start(flow)
    assert run.status().state == "completed"
    assert Counter(run.result("page")) == {"reader-a": 10, "reader-b": 10, "reader-c": 10}


def test_an_expansion_says_what_its_steps_need(orchestrator: Orchestrator) -> None:
    flow = Workflow("book")
    flow.step("book", Book(pages=6), needs={"gpu"})
    run = orchestrator.workflows.start(flow)
    assert Counter(run.result("book")) == {"reader-a": 2, "reader-b": 2, "reader-c": 2}


def test_a_compensation_goes_to_an_agent_that_offers_the_same(orchestrator: Orchestrator) -> None:
    task = orchestrator.app.task(name="fails", shared=False)(_fail)
    flow = Workflow("page", on_failure="compensate")
    page = flow.step("page", Page(number=3), needs={"ocr"}, undo=Recall(number=3))
    flow.step("fails", task.s(), after=page)
    run = orchestrator.workflows.start(flow)
    assert run.status().state == "compensated"
    assert placement_app.NOTED == ["reader-a 3", "reader-a recalls 3"]


def test_what_nobody_offers_is_dead_at_once_in_eager_mode(orchestrator: Orchestrator) -> None:
    flow = Workflow("book", on_failure="continue")
    book = flow.step("book", Book(pages=2), to="lister")
    fields = {"number": ITEM}
    flow.map("page", Page, over=book.result, fields=fields, needs={"tpu"}, place_within_s=60)
    flow.step("cover", Page(number=0), needs={"tpu", "ocr"}, place_within_s=60, undo=Recall(number=0))
    run = orchestrator.workflows.start(flow, workflow_id="b1")
    assert run.outcome("cover") == Dead("unplaced", "no living agent offers ocr, tpu", 0)
    assert run.outcome("page") == Dead("items failed", "2 of 2 items were not handled", 0)
    shown = invoke(orchestrator.app, workflows, "show", "b1").stdout
    assert all(text in shown for text in ("needs tpu", "needs ocr, tpu", "dead"))


def test_which_agents_are_known_does_not_change_a_definition(orchestrator: Orchestrator) -> None:
    first = orchestrator.workflows.start(_one(needs={"ocr"}), workflow_id="w")

    class FourthReader(placement_app.Reader):
        name = "reader-d"

    orchestrator.host(FourthReader)
    assert orchestrator.workflows.start(_one(needs={"ocr"}), workflow_id="w").uid == first.uid


def test_the_least_loaded_of_the_living() -> None:
    assert least_loaded([]) is None
    assert least_loaded([None, None]) is None
    assert least_loaded([2, 1, None, 1]) == 1
    assert least_loaded([2, 1, None, 1], first=2) == 3
    assert offers(("a", "b"), {"a"})
    assert not offers(("a",), {"a", "b"})
