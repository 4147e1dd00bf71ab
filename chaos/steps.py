"""What the steps of workflows run under chaos: an agent, and plain tasks for canvases. Each reports to the witness.

A row's ``step`` is the delivery's id, ``UID.NUMBER``, so the judge finds its run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task

from chaos.witness import witness
from orchestrator import Agent, Context, Exponential, Message, Retry, handles

#: The mailbox of all steps, so that the ledger tells them from the other load.
STEPS = "steps"

#: The plain tasks' names.
PART, GATHER = "chaos.part", "chaos.gather"

_RETRY = Retry(max_retries=3, backoff=Exponential(initial_s=0.05, factor=2.0, cap_s=0.5, jitter=0.0))


class Stage(Message):
    """Takes a while, after it has failed this often; results in that many numbers."""

    nap_ms: int = 0
    failures: int = 0
    numbers: int = 0


class Item(Message):
    """Results in its number, after a while."""

    number: int
    nap_ms: int = 0


class Total(Message):
    """Results in the sum of the numbers from 0 on, each of which another step has returned."""

    numbers: list[int]


class Revert(Message):
    """Undoes a stage."""

    nap_ms: int = 0


class Steps(Agent):
    """Handles the steps that are messages."""

    name = STEPS
    retry = _RETRY

    @handles(Stage)
    def stage(self, message: Stage, context: Context) -> dict[str, Any]:
        """Nap; fail while there are failures left."""
        with witnessed(context.id, context.worker):
            time.sleep(message.nap_ms / 1000)
            if context.attempt <= message.failures:
                raise ConnectionError(f"attempt {context.attempt} of {message.failures} that fail")
        return {"numbers": list(range(message.numbers))}

    @handles(Item)
    def item(self, message: Item, context: Context) -> int:
        """Nap."""
        with witnessed(context.id, context.worker):
            time.sleep(message.nap_ms / 1000)
        return message.number

    @handles(Total)
    def total(self, message: Total, context: Context) -> int:
        """Sum up, and write what came in."""
        with witnessed(context.id, context.worker, numbers=message.numbers):
            return sum(message.numbers)

    @handles(Revert)
    def revert(self, message: Revert, context: Context) -> None:
        """Nap."""
        with witnessed(context.id, context.worker):
            time.sleep(message.nap_ms / 1000)


def part(task: Task, number: int) -> int:
    """A part of a chord: nothing but its number."""
    with witnessed(str(task.request.id), str(task.request.hostname)):
        return number


def gather(task: Task, numbers: list[int]) -> int:
    """The body of a chord."""
    with witnessed(str(task.request.id), str(task.request.hostname), numbers=numbers):
        return sum(numbers)


@contextmanager
def witnessed(step: str, node: str, **note: Any) -> Iterator[None]:
    """Report that a step has begun, and whether it was over or has broken; a suspended function has only begun."""
    witness().write("begun", node=node, step=step, **note)
    try:
        yield
    except ConnectionError:
        witness().write("broke", node=node, step=step)
        raise
    witness().write("over", node=node, step=step)
