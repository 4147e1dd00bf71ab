"""Runs in eager mode: what differs from a run on workers."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task

from orchestrator import ITEM, Agent, Breaker, Dead, Message, Orchestrator, Retry, Workflow, handles


class Later(Task):
    """Publishes some time later."""

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        return None


class Fails(Message):
    """Fails."""


class Weak(Agent):
    name = "weak"
    retry = Retry(max_retries=0)
    breaker = Breaker(failures=1, window_s=60, open_s=60)

    @handles(Fails)
    def fails(self, message: Fails) -> None:
        raise ValueError("no")


def make(**conf: Any) -> Celery:
    app = Celery("eager-runs", set_as_current=False)
    app.conf.update(task_always_eager=True, **conf)
    Orchestrator(app).host(Weak)
    app.task(name="later", base=Later, shared=False)(one)
    app.task(name="one", shared=False)(one)
    app.task(name="fail", shared=False)(fail)
    return app


def one() -> int:
    return 1


def six() -> list[int]:
    return [1, 2, 3, 4, 5, 6]


def fail() -> None:
    raise KeyError("it")


def test_a_step_whose_class_publishes_later_is_dead() -> None:
    app = make()
    flow = Workflow("later")
    flow.step("later", app.tasks["later"].s())
    run = app.orchestrator.workflows.start(flow)
    assert run.status().state == "failed"
    outcome = run.outcome("later")
    assert isinstance(outcome, Dead)
    assert "publishes nothing now" in outcome.error


@pytest.mark.parametrize("propagates", [True, False])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_failure_is_raised_once_the_run_can_go_on_no_more(propagates: bool, guarded: bool) -> None:
    app = make(task_eager_propagates=propagates)
    flow = Workflow("fails", on_failure="continue")
    flow.step("fail", app.tasks["fail"].s(), retry=Retry(max_retries=0))
    flow.step("one", app.tasks["one"].s())
    if guarded:
        flow.step("then", app.tasks["one"].s(), after="fail", when="any_failed")
    if propagates and not guarded:
        with pytest.raises(KeyError):
            app.orchestrator.workflows.start(flow, workflow_id="w")
    else:
        app.orchestrator.workflows.start(flow, workflow_id="w")
    run = app.orchestrator.workflows.get("w")
    assert run.status().state == ("completed" if guarded else "failed")
    assert run.result("one") == 1


def test_a_step_passes_an_open_breaker() -> None:
    app = make()
    flow = Workflow("weak", on_failure="continue")
    for number in range(3):
        flow.step(f"s{number}", Fails(), to="weak")
    assert app.orchestrator.workflows.start(flow).status().dead == 3


def test_a_map_counts_by_its_items() -> None:
    app = make()
    flow = Workflow("half")
    flow.step("one", app.tasks["one"].s())
    app.task(name="list", shared=False)(six)
    app.task(name="odd", shared=False)(_odd)
    numbers = flow.step("list", app.tasks["list"].s())
    flow.map("odd", app.tasks["odd"].s(ITEM), over=numbers.result, retry=Retry(max_retries=0))
    flow.wait("never", event="never", after="odd")
    # Two steps, six items, and what waits.
    assert app.orchestrator.workflows.start(flow).progress() == 8 / 9


def _odd(number: int) -> int:
    return 1 // (number % 2)
