"""Workflow functions of :mod:`tests.apps.workflows_app`; their names are in ``orchestrator.runtime.functions``."""

from __future__ import annotations

import os
from typing import Any

from orchestrator import Orchestrator, Retry, StepFailed, WorkflowContext

#: How many calls of a function are made in this process; changed by tests of functions whose code has changed.
VERSION = {"extra": 0}


def declare(orchestrator: Orchestrator) -> None:
    """Declare them."""
    from tests.apps.workflows_app import Square, Undo, _note

    tasks = orchestrator.app.tasks

    def read() -> list[Any]:
        _note("side effect")
        return ["a", 1]

    @orchestrator.workflow
    def squares(ctx: WorkflowContext, count: int) -> dict[str, Any]:
        """Calls one after the other, several at once, a task, a wait and recorded values."""
        _note("squares")
        first = ctx.call("counter", Square(number=count))
        began, name, chance = ctx.now().isoformat(), str(ctx.uuid()), ctx.random.random()
        rest = ctx.gather([("counter", Square(number=number)) for number in range(count)])
        ctx.sleep(0.05)
        recorded = ctx.side_effect(read)
        total = ctx.call(tasks["plain.add"].s(first, *rest))
        return {"total": total, "recorded": recorded, "same": [began, name, chance], "at": ctx.step}

    @orchestrator.workflow
    def caught(ctx: WorkflowContext) -> list[Any]:
        """Catches failures, with the widest `except` that is allowed."""
        said: list[Any] = []
        for number in (2, 13, 3):
            try:
                said.append(ctx.call("counter", Square(number=number)))
            except Exception as error:  # noqa: BLE001
                said.append([getattr(error, "step", error), getattr(getattr(error, "outcome", None), "reason", "")])
        return said

    @orchestrator.workflow
    def impatient(ctx: WorkflowContext) -> str:
        """Waits for an event that does not come in time."""
        try:
            ctx.wait_event("never", timeout_s=0.05)
        except StepFailed as error:
            return str(getattr(error.outcome, "reason", error.outcome))
        return "it came"

    @orchestrator.workflow(on_failure="compensate")
    def saga(ctx: WorkflowContext) -> None:
        """Fails after two calls, which are compensated."""
        ctx.call("counter", Square(number=1), undo=Undo(what="first"))
        ctx.call("counter", Square(number=2), undo=Undo(what="second"))
        ctx.call("counter", Square(number=13))

    @orchestrator.workflow
    def approval(ctx: WorkflowContext, what: str) -> Any:
        """Waits for an event between two calls."""
        before = ctx.call(tasks["plain.note"].s(f"before {what}"))
        payload = ctx.wait_event("approved")
        return [before, payload, ctx.call(tasks["plain.note"].s(f"after {what}"))]

    @orchestrator.workflow
    def needs(ctx: WorkflowContext, *keys: str) -> Any:
        """Calls a task that fails as long as a key is not there."""
        _note("needs")
        return ctx.gather([tasks["plain.needs"].s(key) for key in keys], retry=Retry(max_retries=0))

    @orchestrator.workflow
    def outer(ctx: WorkflowContext, *keys: str) -> Any:
        """Calls another workflow function."""
        return ["outer", ctx.call(orchestrator.runtime.functions[f"{__name__}.needs"].s(*keys))]

    @orchestrator.workflow(retry=Retry(max_retries=0))
    def swallows(ctx: WorkflowContext, how: str) -> Any:
        """Catches what it must not."""
        if how == "outside":
            return ctx.call("nobody", Square(number=1))
        if how == "canvas":
            from celery import group

            return ctx.call(group(tasks["plain.add"].s(1)))
        try:
            return ctx.call("counter", Square(number=1))
        except BaseException:  # noqa: BLE001
            if how == "error":
                raise ValueError("in the handler of an error") from None
            return ctx.call("counter", Square(number=2)) if how == "calls" else "swallowed"

    @orchestrator.workflow(retry=Retry(max_retries=0), on_failure="compensate")
    def undeployed(ctx: WorkflowContext) -> Any:
        """Calls a task that no worker has, after a call with an undo."""
        ctx.call("counter", Square(number=2), undo=Undo(what="before"))
        return ctx.call(orchestrator.app.signature("plain.gone"))

    @orchestrator.workflow(retry=Retry(max_retries=0), on_failure="compensate")
    def changes(ctx: WorkflowContext, how: str) -> Any:
        """Calls something else than before once the key ``test:changed`` is there."""
        changed = _is_changed(orchestrator)
        number = 3 if changed and how == "argument" else 2
        first = ctx.call("counter", Square(number=number), undo=Undo(what="changes"))
        if changed and how == "less":
            return first
        if changed and how == "other":
            ctx.sleep(1)
        ctx.wait_event("go")
        return [first, ctx.call("counter", Square(number=4))]

    @orchestrator.workflow
    def held(ctx: WorkflowContext) -> list[Any]:
        """Waits for an event, and then in an execution until the test lets it go on."""
        first = ctx.call("counter", Square(number=1))
        payload = ctx.wait_event("approved")
        tasks["plain.hold"]("held")
        return [first, payload, ctx.call("counter", Square(number=4))]

    @orchestrator.workflow
    def chain(ctx: WorkflowContext, count: int) -> int:
        """Calls one step after the other, each with the result of the one before."""
        number = 0
        for _ in range(count):
            number = ctx.call(tasks["plain.add"].s(number, 1))
        return number

    @orchestrator.workflow
    def fan(ctx: WorkflowContext, count: int) -> int:
        """Calls many at once, twice, and waits in between."""
        first = ctx.gather([("counter", Square(number=number % 10)) for number in range(count)])
        ctx.sleep(0.01)
        second = ctx.gather([tasks["plain.add"].s(number, 1) for number in first])
        return sum(second)


def _is_changed(orchestrator: Orchestrator) -> bool:
    if "ORCHESTRATOR_BROKER_URL" not in os.environ:
        return bool(VERSION["extra"])
    from tests.apps.workflows_app import _redis

    with _redis() as client:
        return bool(client.exists("test:changed"))
