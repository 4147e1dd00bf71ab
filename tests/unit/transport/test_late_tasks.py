"""Tasks that are registered after the app was finalized are supervised like all others."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task, chain, chord, group

from orchestrator import Dead, Orchestrator, Retry
from orchestrator.core.errors import InvalidWorkflow, NotSupervised


class Late(Task):
    """Registered as an instance, which finalizes the app."""

    name = "late.class"

    def run(self) -> None:
        """Fail."""
        raise ValueError("late")


def cluster() -> Orchestrator:
    app = Celery("late", set_as_current=False)
    orchestrator = Orchestrator(app)
    app.conf.task_always_eager = True
    return orchestrator


def test_their_failures_are_dead_letters() -> None:
    """Regression: they were counted as handled, with no dead letter."""
    orchestrator = cluster()
    late = orchestrator.app.register_task(Late())
    assert orchestrator.app.finalized

    @orchestrator.app.task(name="late.function", shared=False)
    def fail() -> None:
        raise ValueError("later")

    for signature in (late.s(), fail.s()):
        outcome = orchestrator.send(signature, retry=Retry(max_retries=0)).wait(timeout_s=1)
        assert isinstance(outcome, Dead)
    assert orchestrator.dead_letters.count() == 2


@pytest.mark.parametrize("build", [group, chord, lambda *tasks: chain(group(*tasks), tasks[0])])
def test_a_canvas_of_them_is_supervised_too(build: Any) -> None:
    """Regression: it was accepted, failed on the worker, and was counted as handled."""
    orchestrator = cluster()
    late = orchestrator.app.register_task(Late())
    canvas = chord([late.si(), late.si()], late.si()) if build is chord else build(late.si(), late.si())
    run = orchestrator.send(canvas, retry=Retry(max_retries=0))
    assert (run.status().state, run.status().dead, orchestrator.dead_letters.count()) == ("failed", 2, 2)


def test_an_empty_canvas_is_refused() -> None:
    with pytest.raises(InvalidWorkflow, match="it has no steps"):
        cluster().send(chain())


def test_a_broker_that_is_not_supervised_is_refused_by_send() -> None:
    app = Celery("elsewhere", broker="amqp://127.0.0.1:1//", set_as_current=False)
    orchestrator = Orchestrator(app)
    task = app.register_task(Late())
    with pytest.raises(NotSupervised, match="redis://"):
        orchestrator.send(task.s())
