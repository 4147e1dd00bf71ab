"""Each kind of fault of a definition: all of them are in one error, and Redis is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import ITEM, InvalidPolicy, InvalidWorkflow, Orchestrator, Workflow
from orchestrator.workflows.references import Reference
from tests.apps.workflows_app import List, Square
from tests.integration.workflows.conftest import waits

FUNCTION: Any = len


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def _nested() -> list[Any]:
    made: list[Any] = []
    for _ in range(5000):
        made = [made]
    return made


def _many(flow: Workflow, add: Any) -> None:
    for number in range(100_001):
        flow.step(f"s{number}", add)


def _named(flow: Workflow, add: Any) -> None:
    names: list[Any] = [[1], {}, Unshowable(), 7, None]
    for name in names:
        flow.step(name, add.s(1))


def _final(flow: Workflow, add: Any) -> None:
    flow.step("a", add)
    flow.final = [Unshowable()]


def _not_json(flow: Workflow, add: Any) -> None:
    flow.step("set", add.s({1}))
    flow.step("other", add.s(1), undo=add.s(object()))
    flow.step("field", List, fields={"count": Reference("other"), "more": 1}, to="counter")
    flow.step("last", add.s([b"x", {2}]))


FAULTS: dict[str, tuple[Callable[[Workflow, Any], Any], list[str]]] = {
    "no steps": (lambda flow, add: None, ["it has no steps"]),
    "a cycle": (
        lambda flow, add: [
            flow.step("a", add, after="b"),
            flow.step("b", add, after="c"),
            flow.step("c", add, after="a"),
        ],
        ["steps depend on one another in a cycle: a -> c -> b -> a|b -> a -> c -> b|c -> b -> a -> c|a -> b -> c -> a"],
    ),
    "an unknown step": (
        lambda flow, add: flow.step("a", add, after="nosuch"),
        ["it depends on 'nosuch', which is no step"],
    ),
    "a name twice": (lambda flow, add: [flow.step("a", add) for _ in range(3)], ["step 'a' is declared twice"] * 2),
    "itself": (lambda flow, add: flow.step("a", add.s(Reference("a"))), ["step 'a': it depends on itself"]),
    "too many": (_many, ["it has 100001 steps; allowed: 100000"]),
    "a join of nothing": (lambda flow, add: flow.join("a", after=None), ["step 'a': a join needs steps in after"]),
    "when without dependencies": (
        lambda flow, add: flow.step("a", add, when="all_ended"),
        ["when='all_ended' without dependencies; allowed: all_handled"],
    ),
    "when is a function": (
        lambda flow, add: [flow.step("a", add), flow.step("b", add, after="a", when=FUNCTION)],
        ["step 'b': when=<built-in function len>", "allowed: all_handled, all_ended, any_handled, any_failed"],
    ),
    "a map over a known list": (
        lambda flow, add: flow.map("a", add.s(ITEM), over=[1, 2]),  # type: ignore[arg-type]
        ["step 'a': over=[1, 2]; allowed: a step's result"],
    ),
    "limit 0": (
        lambda flow, add: [flow.step("a", add), flow.map("b", add.s(ITEM), over=Reference("a"), limit=0)],
        ["step 'b': limit=0; allowed: a whole number from 1"],
    ),
    "a wait for nothing": (lambda flow, add: flow.wait("a"), ["step 'a': a wait needs an event or seconds"]),
    "a wait with a timeout alone": (
        lambda flow, add: flow.wait("a", timeout_s=5),
        ["step 'a': timeout_s=5 without an event; allowed: with an event"],
    ),
    "a wait for an event and a time": (
        lambda flow, add: flow.wait("a", event="go", seconds=5),
        ["step 'a': seconds=5 with an event; allowed: timeout_s"],
    ),
    "a wait of two years": (
        lambda flow, add: flow.wait("a", seconds=2 * 366 * 86400),
        ["step 'a': seconds=63244800; allowed: seconds above 0, at most a year"],
    ),
    "the mark of references": (
        lambda flow, add: flow.step("a", add.s({"$orc": 1})),
        ["step 'a': its arguments have a member '$orc', which is reserved"],
    ),
    "names that are no text": (
        _named,
        ["step '[1] (list)'", "step '{} (dict)'", "step '<Unshowable: ", "step '7 (int)'", "step 'None (NoneType)'"],
    ),
    "after what is no name": (
        lambda flow, add: flow.step("a", add, after=[Unshowable(), 7]),  # type: ignore[list-item]
        ["it depends on '<Unshowable: ", "it depends on '7', which is no step"],
    ),
    "what is not JSON": (
        _not_json,
        ["step 'set': ", "step 'other', undo: ", "step 'field': List has no field more", "step 'last': "],
    ),
    "what is nested too deeply": (lambda flow, add: flow.step("a", add.s(_nested())), ["step 'a': "]),
    "a final that is not JSON": (
        _final,
        ["final: "],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_and_nothing_is_written(orchestrator: Orchestrator, fault: str) -> None:
    declare, expected = FAULTS[fault]
    task = orchestrator.app.tasks["plain.add"]
    flow = Workflow("faulty")
    declare(flow, task)
    with pytest.raises(InvalidWorkflow) as raised:
        orchestrator.workflows.start(flow)
    problems = raised.value.problems
    for text in expected:
        assert any(one in problem for problem in problems for one in text.split("|")), problems
    assert len(problems) >= len([text for text in expected if text.startswith("step ")])
    assert _keys(orchestrator) == []


def test_all_kinds_of_faults_are_in_one_error(orchestrator: Orchestrator) -> None:
    task = orchestrator.app.tasks["plain.add"]
    flow = Workflow("faulty")
    flow.step("a", task.s({1}), after="b")
    flow.step("b", task.s(1), after=["a", "c"])
    flow.step("d", Square(number=1), to="nobody")
    flow.wait("d", event="go", seconds=1)
    flow.step("e", List, fields={"cont": 1}, to="counter", when="any_fail")
    with pytest.raises(InvalidWorkflow) as raised:
        orchestrator.workflows.start(flow)
    problems = "\n".join(raised.value.problems)
    for text in (
        "in a cycle", "'c', which is no step", "'d' is declared twice", "seconds=1 with an event",
        "did you mean 'any_failed'", "unknown agent 'nobody'", "List has no field cont", "step 'a': ",
    ):  # fmt: skip
        assert text in problems
    assert _keys(orchestrator) == []


def test_a_payload_is_no_larger_than_a_result(orchestrator: Orchestrator) -> None:
    run = orchestrator.workflows.start(waits())
    limit = orchestrator.settings.result_limit_bytes
    with pytest.raises(InvalidPolicy, match=rf"payload=.*; allowed: at most {limit} bytes as JSON, not {limit + 1} "):
        run.post("approved", "x" * (limit - 1))
    assert run.status().state == "running"
    assert run.post("approved", "x" * (limit - 2)) == "done"
    assert run.status().state == "completed"


def test_a_deadline_before_a_steps_timeout_is_a_warning(
    orchestrator: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    flow = waits()
    flow.step("slow", orchestrator.app.tasks["plain.add"].s(1), after="approval", timeout_s=60)
    flow.step("quick", orchestrator.app.tasks["plain.add"].s(1), after="approval", timeout_s=9)
    orchestrator.workflows.start(flow, deadline_s=10)
    said = "workflow waits: deadline_s=10 is shorter than timeout_s=60 of step 'slow'; the deadline comes first"
    assert [one.message for one in caplog.records if "deadline" in one.message] == [said]


def _keys(orchestrator: Orchestrator) -> list[bytes]:
    """What there is of runs in Redis."""
    if orchestrator.eager:
        return [status.uid.encode() for status in orchestrator.workflows.list()]
    return list(orchestrator.runtime.store.client.scan_iter("orc:*run*"))
