"""Calls of workflow functions, in eager mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    Agent,
    CallerError,
    Dead,
    Expand,
    Message,
    Orchestrator,
    Retry,
    Workflow,
    WorkflowContext,
    handles,
)


class Page(Message):
    number: int


class Reader(Agent):
    name = "reader"
    capabilities = frozenset({"ocr"})

    @handles(Page)
    def read(self, message: Page) -> dict[str, int]:
        return {"number": message.number}


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    app = Celery("calls", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(Reader)
    yield orchestrator
    app.close()


def test_a_call_is_placed_by_what_it_needs(orchestrator: Orchestrator) -> None:
    @orchestrator.workflow
    def read(ctx: WorkflowContext) -> Any:
        first = ctx.call(Page(number=1), needs={"ocr"})
        # Its result is the function's own: the next execution gets another copy.
        first["number"] = 7
        return [first, *ctx.gather([Page(number=2), Page(number=3)], needs={"ocr"})]

    run = orchestrator.workflows.start(read)
    assert run.result() == [{"number": 7}, {"number": 2}, {"number": 3}]


def test_nobody_offers_it(orchestrator: Orchestrator) -> None:
    @orchestrator.workflow
    def read(ctx: WorkflowContext) -> Any:
        return ctx.call(Page(number=1), needs={"gpu"})

    run = orchestrator.workflows.start(read)
    assert "InvalidExpansion: invalid expansion: step 'call-1': " in str(run.outcome("read"))


def test_no_other_thread_makes_calls(orchestrator: Orchestrator) -> None:
    raised: list[Exception] = []

    @orchestrator.workflow
    def read(ctx: WorkflowContext) -> str:
        def call() -> None:
            try:
                ctx.call("reader", Page(number=1))
            except CallerError as error:
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return "done"

    assert orchestrator.workflows.start(read).result() == "done"
    assert "a call in another thread; allowed: in the function's own" in str(raised[0])


def test_too_many_calls_are_an_error(orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.workflows.functions.execution.MAX_CALLS", 3)

    @orchestrator.workflow
    def read(ctx: WorkflowContext, values: int, calls: int) -> int:
        for _ in range(values):
            ctx.now()
        return len(ctx.gather([("reader", Page(number=number)) for number in range(calls)]))

    start = orchestrator.workflows.start
    assert start(read, 1, 2).result() == 2
    assert "TooManyCalls: read makes 4 calls; allowed: 3" in str(start(read, 1, 3).outcome("read"))
    assert "TooManyCalls" in str(start(read, 4, 0).outcome("read"))


@pytest.mark.parametrize("value", [{1, 2}, object(), {"of": {1}}])
def test_arguments_that_are_no_json_data_are_a_fault_of_the_call(orchestrator: Orchestrator, value: Any) -> None:
    """Regression: models may have a set, so it was found when the message was written, and tried again."""

    @orchestrator.app.task(name="plain.count", shared=False)
    def counted(value: Any) -> int:
        return len(value)

    @orchestrator.workflow
    def count(ctx: WorkflowContext) -> Any:
        return ctx.call(counted.s(value))

    outcome = orchestrator.workflows.start(count).outcome("count")
    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.attempts) == ("validation", 1)
    assert "InvalidExpansion: invalid expansion: arguments that are not JSON data: " in outcome.error


def test_calls_and_expansions_are_nested_so_many_levels_deep(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.workflows.compiling.check.MAX_LEVELS", 10)

    @orchestrator.workflow
    def nested(ctx: WorkflowContext, left: int) -> int:
        return 0 if left == 0 else 1 + ctx.call(nested.s(left - 1))

    start = orchestrator.workflows.start
    assert start(nested, 10).result() == 10
    run = start(nested, 11)
    deepest = run.outcome("nested" + 10 * "/call-1")
    assert isinstance(deepest, Dead)
    assert deepest.reason == "validation"
    assert f"steps on level 11 below 'nested{10 * '/call-1'}'; allowed: 10 levels" in deepest.error

    @orchestrator.app.task(name="plain.deeper", shared=False)
    def deeper(left: int) -> Any:
        return Expand([deeper.s(left - 1)]) if left else 0

    for levels, state in ((10, "completed"), (11, "failed")):
        flow = Workflow("expands")
        flow.step("first", deeper.s(levels), retry=Retry(max_retries=0))
        assert start(flow).status().state == state


def test_a_failing_side_effect_is_the_executions(orchestrator: Orchestrator) -> None:
    @orchestrator.workflow
    def read(ctx: WorkflowContext) -> Any:
        try:
            return ctx.side_effect(lambda: 1 / 0)
        except Exception:  # noqa: BLE001
            return "caught"

    run = orchestrator.workflows.start(read)
    assert "ZeroDivisionError" in str(run.outcome("read"))
    with pytest.raises(Exception, match="was not handled"):
        run.result()
