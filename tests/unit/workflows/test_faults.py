"""What is wrong with a definition: all faults at once, each with its step, its value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationInfo, field_validator

from orchestrator import (
    ITEM,
    InvalidPolicy,
    InvalidWorkflow,
    Message,
    Orchestrator,
    UnknownAgent,
    UnknownMessage,
    Workflow,
)
from orchestrator.core.errors import CallerError
from orchestrator.workflows.compiling.field_check import check_fields
from orchestrator.workflows.references import Reference
from tests.apps import workflows_app
from tests.apps.workflows_app import List, Square


class Charge(Message):
    cents: int
    payer: str = ""

    @field_validator("payer")
    @classmethod
    def _has_cents(cls, payer: str, info: ValidationInfo) -> str:
        if payer == "none":
            raise ValueError("somebody pays")
        if payer and not info.data["cents"]:
            raise ValueError("no payer of nothing")
        return payer


@pytest.fixture(scope="module")
def orchestrator() -> Orchestrator:
    return workflows_app.make(eager=True)


def _problems(orchestrator: Orchestrator, flow: Workflow) -> tuple[str, ...]:
    with pytest.raises(InvalidWorkflow) as raised:
        orchestrator.workflows.start(flow)
    return raised.value.problems


def test_the_graphs_faults_hide_no_fault_of_a_message(orchestrator: Orchestrator) -> None:
    flow = Workflow("w")
    flow.step("a", List(count=1), to="counterx", after="b", undo=Charge(cents=1))
    flow.step("b", List, fields={"cout": 1}, to="counter", after=["a", "nosuch"])
    flow.step("c", Square, fields={"number": ITEM}, to="counter", undoo=1)  # type: ignore[call-arg]
    flow.final = Reference("lost")
    problems = "\n".join(_problems(orchestrator, flow))
    for text in (
        "in a cycle",
        "'nosuch', which is no step",
        "step 'a': unknown agent 'counterx'; known agents: counter; did you mean 'counter'?",
        "step 'a', undo: unknown agent 'counterx'",
        "step 'b': List has no field cout; it has: count; did you mean 'count'?; 1 field of List missing: count",
        "step 'c': ITEM stands for an item",
        "step 'c': step() got an unexpected keyword argument 'undoo'",
        "final: it refers to 'lost', which is no step",
    ):
        assert text in problems


def test_an_only_fault_that_something_is_unknown_has_its_type_and_names_the_step(orchestrator: Orchestrator) -> None:
    flow = Workflow("w")
    flow.step("pay", List(count=1), to="counterx")
    with pytest.raises(UnknownAgent, match=r"^step 'pay': unknown agent 'counterx'.*did you mean 'counter'"):
        orchestrator.workflows.start(flow)
    flow = Workflow("w")
    flow.step("pay", List(count=1), to="counter", undo=Charge(cents=1))
    with pytest.raises(UnknownMessage, match=r"^step 'pay', undo: agent 'counter' does not handle 'Charge'"):
        orchestrator.workflows.start(flow)


@pytest.mark.parametrize(
    ("add", "allowed"),
    [
        (lambda flow: flow.step("a", List(count=1), to="counter", undoo=1), "after, fields, metadata, needs, on_error"),
        (lambda flow: flow.step("a", List(count=1), to="counter", undoo=1), "undo, when; did you mean 'undo'?"),
        (lambda flow: flow.map("b", Square, over=Reference("l"), to="counter", limits=1), "did you mean 'limit'?"),
        (lambda flow: flow.step("a", List(count=1), to="counter", timeout_s="long"), "only in declarations"),
        (lambda flow: flow.step("a", List(count=1), to="counter", when="any_fail"), "did you mean 'any_failed'?"),
    ],
)
def test_options_of_a_step(orchestrator: Orchestrator, add: Callable[[Any], Any], allowed: str) -> None:
    flow = Workflow("w")
    flow.step("l", List(count=1), to="counter")
    add(flow)
    assert allowed in "\n".join(_problems(orchestrator, flow))


def test_an_unknown_on_failure_is_refused_at_once() -> None:
    with pytest.raises(InvalidWorkflow, match=r"on_failure='compensat'; allowed: .*; did you mean 'compensate'\?"):
        Workflow("w", on_failure="compensat")


def test_a_state_that_there_is_not_names_the_nearest(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidPolicy, match=r"'runningx'.*did you mean 'running'\?"):
        orchestrator.workflows.list(state="runningx")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"cents": "x"}, "invalid Charge: cents='x': Input should be a valid integer"),
        ({"cents": Reference("a"), "payer": 7}, "invalid Charge: payer=7: Input should be a valid string"),
        ({"cents": [Reference("a")], "payer": 7, "to": 1}, "Charge has no field to; it has: cents, payer; invalid"),
        ({"cents": 0, "payer": "anna"}, "no payer of nothing"),
        ({"x": 1, "y": 1}, "Charge has no fields x, y; it has: cents, payer; 1 field of Charge missing: cents"),
        ("cents", "fields='cents'; allowed: a mapping"),
    ],
)
def test_fields_are_checked_as_far_as_they_are_known(fields: Any, fault: str) -> None:
    with pytest.raises(CallerError, match=re.escape(fault)):
        check_fields(Charge, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"cents": "5"},
        {"cents": Reference("a")},
        {"cents": Reference("a"), "payer": "anna"},
        {"cents": Reference("a"), "payer": "none"},
    ],
)
def test_a_validator_of_several_fields_is_the_workers_if_a_field_is_not_known(fields: Any) -> None:
    check_fields(Charge, fields)
