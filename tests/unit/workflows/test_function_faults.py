"""What cannot be a workflow function is refused where it is declared, and bad arguments where it is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from orchestrator import CallerError, InvalidPolicy, InvalidWorkflow, Orchestrator, Retry, Workflow, WorkflowContext


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    app = Celery("functions", set_as_current=False)
    app.conf.task_always_eager = True
    yield Orchestrator(app)
    app.close()


async def asynchronous(ctx: Any) -> None: ...


def generator(ctx: Any, workflow_id: str) -> Iterator[int]:
    yield 1


def without() -> None: ...


def one(ctx: WorkflowContext, first: int, second: int = 2) -> list[int]:
    return [first, second]


@pytest.mark.parametrize(
    ("function", "options", "problems"),
    [
        (asynchronous, {}, ["it is an async function; allowed: a function without async and yield"]),
        (
            generator,
            {"name": "a b", "on_failure": "ignore"},
            [
                "it is a generator function",
                "its parameter 'workflow_id' has the name of one of start()",
                "name='a b'; allowed: letters",
                "on_failure='ignore'; allowed: stop, continue, compensate",
            ],
        ),
        (without, {}, ["it takes no context; allowed: the context as its first parameter"]),
        (7, {"name": "seven"}, ["7 is no function"]),
        (Workflow, {}, ["is no function"]),
        (lambda ctx: None, {}, ["name='<lambda>'; allowed: letters"]),
        (one, {"retries": 3}, ["workflow() got an unexpected keyword argument 'retries'"]),
        (one, {"timeout_s": -1}, ["timeout_s=-1"]),
    ],
)
def test_all_faults_are_in_one_error(
    orchestrator: Orchestrator, function: Any, options: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        orchestrator.workflow(**options)(function)
    assert len(caught.value.problems) >= len(problems)
    assert all(problem in str(caught.value) for problem in problems), str(caught.value)


def test_a_name_is_declared_once(orchestrator: Orchestrator) -> None:
    orchestrator.workflow(one)
    with pytest.raises(InvalidWorkflow, match=r"a task has the name .*\.one already"):
        orchestrator.workflow(one)


def test_its_arguments_are_checked_at_the_start(orchestrator: Orchestrator) -> None:
    function = orchestrator.workflow(name="sum")(one)
    start: Any = orchestrator.workflows.start
    assert start(function, 1, second=3, workflow_id="w").result() == [1, 3]
    assert start(function, 1).result() == [1, 2]
    with pytest.raises(InvalidWorkflow, match="invalid workflow 'sum': its arguments: missing a required argument"):
        start(function)
    with pytest.raises(InvalidPolicy, match=r"arguments=.* allowed: none for a Workflow"):
        start(Workflow("w"), 1)
    with pytest.raises(InvalidPolicy, match=r"a Workflow, or a function with @orchestrator.workflow"):
        start(one, 1)
    with pytest.raises(TypeError):
        function.s(third=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "ask",
    [
        lambda ctx: ctx.now().isoformat(),
        lambda ctx: str(ctx.uuid()),
        lambda ctx: ctx.random.random(),
        lambda ctx: ctx.sleep(1),
        lambda ctx: ctx.side_effect(lambda: 1),
    ],
)
def test_a_side_effect_does_not_ask_the_context(orchestrator: Orchestrator, ask: Any) -> None:
    """Another execution does not call it, and would go another way."""

    @orchestrator.workflow(retry=Retry(max_retries=0))
    def asks(ctx: WorkflowContext) -> Any:
        found = ctx.side_effect(lambda: ask(ctx))
        ctx.sleep(0.01)
        return found

    run = orchestrator.workflows.start(asks)
    assert run.status().state == "failed"
    assert "InvalidExpansion: invalid expansion: the context in a side_effect; allowed:" in str(run.outcome("asks"))
    assert run.status().total == 1


def test_what_is_recorded_with_a_call_is_bounded(orchestrator: Orchestrator) -> None:
    """All of it is decoded in one script."""

    @orchestrator.workflow(retry=Retry(max_retries=0))
    def reads(ctx: WorkflowContext, count: int) -> int:
        parts = [ctx.side_effect(lambda: "x" * 400_000) for _ in range(count)]
        ctx.sleep(0.01)
        return len("".join([*parts, ctx.side_effect(lambda: "y" * 400_000)]))

    assert orchestrator.workflows.start(reads, 2).result() == 1_200_000
    run = orchestrator.workflows.start(reads, 3)
    assert run.status().state == "failed"
    assert "ResultTooLarge" in str(run.outcome("reads"))


SENDS: dict[str, Callable[[Orchestrator, Any], Any]] = {
    "send": lambda orchestrator, function: orchestrator.send(function.s(1)),
    "send_itself": lambda orchestrator, function: orchestrator.send(function),
    "call": lambda orchestrator, function: orchestrator.call(function.s(1), timeout_s=1),
    "task": lambda orchestrator, function: orchestrator.send(orchestrator.app.tasks[function.task_name]),
    "delay": lambda _, function: function.delay(1),
    "apply_async": lambda _, function: function.apply_async((1,), countdown=1),
    "schedule": lambda orchestrator, function: orchestrator.schedules.add("daily", function.s(1), every_s=60),
}


@pytest.mark.parametrize("send", SENDS)
def test_a_send_of_it_says_how_it_is_started(orchestrator: Orchestrator, send: str) -> None:
    """Regression: the message was accepted, and became a dead letter after four attempts."""
    function = orchestrator.workflow(one)
    with pytest.raises(CallerError, match=r"workflow function, .*workflows\.start\(one, …\) starts, .*one\.s\(…\)"):
        SENDS[send](orchestrator, function)


@pytest.mark.parametrize("send", ["apply_async", "send_task"])
def test_celery_refuses_to_send_it(send: str) -> None:
    app = Celery("functions", broker="redis://127.0.0.1:1/0", set_as_current=False)
    function = Orchestrator(app).workflow(one)
    app.finalize()
    with pytest.raises(InvalidPolicy, match=r"workflow function, .*workflows\.start\(one, …\)"):
        function.s(1).apply_async() if send == "apply_async" else app.send_task(function.task_name, (1,))
    app.close()
