"""The plan of a run: what each step of a workflow is, as the rule of runs and its script read it.

A step's number is its place in the plan. The text of a step has one value a line; ``includes/runs.lua`` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

_RANGE: Final = re.compile(r"(\d+)-?(\d*)")


class Kind(StrEnum):
    """The kind of a step."""

    #: One message.
    TASK = "t"
    #: Nothing: it ends as soon as it begins, so that many steps can depend on many others through it.
    JOIN = "j"
    #: One message for each item of a list.
    MAP = "m"
    #: Ends when an event or a time has come.
    WAIT = "w"


class When(StrEnum):
    """On which outcomes of its dependencies a step begins, once all of them have ended. Otherwise it is skipped."""

    ALL_HANDLED = "all_handled"
    ALL_ENDED = "all_ended"
    ANY_HANDLED = "any_handled"
    ANY_FAILED = "any_failed"

    def holds(self, dependencies: int, unhandled: int) -> bool:
        """Whether a step with that many ``dependencies`` begins, of which ``unhandled`` were not handled."""
        match self:
            case When.ALL_HANDLED:
                return unhandled == 0
            case When.ALL_ENDED:
                return True
            case When.ANY_HANDLED:
                return unhandled < dependencies
            case When.ANY_FAILED:
                return unhandled > 0


class OnFailure(StrEnum):
    """The action of a run once a step was not handled and no other depends on that (see :attr:`StepPlan.guarded`)."""

    #: Begins no further step.
    STOP = "stop"
    #: Begins what does not depend on the failed step.
    CONTINUE = "continue"
    #: Begins no further step; when none is out any more, sends the compensations of the handled steps, the last first.
    COMPENSATE = "compensate"


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of a plan."""

    name: str
    kind: Kind = Kind.TASK
    #: The number of steps that have to end first.
    dependencies: int = 0
    when: When = When.ALL_HANDLED
    #: Whether a step that begins on failure depends on it, directly or through steps that are then skipped. If so, its
    #: failure does not count as the run's (see :class:`OnFailure`).
    guarded: bool = False
    #: Whether it has a compensation, which is in the plan as ``u`` and its number.
    undo: bool = False
    #: The numbers of the steps that depend on it.
    dependents: tuple[int, ...] = ()
    #: Of a map, a wait and a step with errbacks: see ``_options`` in :mod:`orchestrator.workflows.compiling.compiler`.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Number of its message's template, its mailbox and its priority's stream.
    template: str = ""
    queue: str = ""
    level: str = ""
    #: The numbers of the steps whose results it refers to one by one, if they are few.
    inputs: tuple[int, ...] = ()
    #: The message's body, and the texts of its arguments as logs show them: JSON without the quotes.
    body: str = ""
    args: str = ""
    kwargs: str = ""

    def to_text(self) -> str:
        """As Redis keeps it."""
        return self.text_with(self.template, self.queue, self.level, self.inputs, self.body, self.args, self.kwargs)

    def text_with(
        self, template: str, queue: str, level: str, inputs: Iterable[int], body: str, args: str, kwargs: str
    ) -> str:
        """As Redis keeps it with another message than its own."""
        options = json.dumps(dict(self.options), separators=(",", ":")) if self.options else ""
        return (
            f"{self.kind}\n{self.name}\n{template}\n{queue}\n{level}\n{self.dependencies}\n{self.when}\n"
            f"{'1' if self.guarded else ''}\n{'1' if self.undo else ''}\n{ranges_text(self.dependents)}\n{options}\n"
            f"{','.join(map(str, inputs))}\n{body}\n{args}\n{kwargs}"
        )

    @classmethod
    def from_text(cls, text: str) -> StepPlan:
        """Inverse of :meth:`to_text`."""
        kind, name, template, queue, level, dependencies, when, guarded, undo, *rest = text.split("\n")
        dependents, options, inputs, body, args, kwargs = rest
        return cls(
            name=name,
            kind=Kind(kind),
            dependencies=int(dependencies),
            when=When(when),
            guarded=guarded == "1",
            undo=undo == "1",
            dependents=tuple(numbers_in(dependents)),
            options=json.loads(options) if options else {},
            template=template,
            queue=queue,
            level=level,
            inputs=tuple(numbers_in(inputs)),
            body=body,
            args=args,
            kwargs=kwargs,
        )


def ranges_text(numbers: Iterable[int]) -> str:
    """Numbers as text, those that follow one another as a range: ``"1,3-7"``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def numbers_in(text: str) -> Iterator[int]:
    """Inverse of :func:`ranges_text`."""
    for first, last in _RANGE.findall(text):
        yield from range(int(first), int(last or first) + 1)


def number_of(step: str) -> str:
    """The number under which a step is in the plan: that of its map, for an item; ``u3`` for a compensation."""
    return step.partition(".")[0]
