"""The history of a workflow function: the outcomes of its calls, and the values that it has recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from celery import Task
from celery.canvas import Signature
from kombu.utils.json import dumps
from pydantic_core import to_jsonable_python

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.errors import InvalidExpansion
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.workflows.run_calls import CallList, Suspended
from orchestrator.workflows.canvas import is_canvas
from orchestrator.workflows.definition import StepDefinition
from orchestrator.workflows.steps.arguments import ItemCount, Outcomes, outcome_in_run, run_gone

#: Outcomes that one command reads.
_AT_ONCE: Final = 500

#: Characters of the sum of a call's arguments.
_SUM: Final = 12


@dataclass(frozen=True, slots=True)
class Entry:
    """A call, by the number of its step; or a recorded value."""

    fingerprint: str
    number: str | None = None
    value: Any = None


@dataclass(frozen=True, slots=True)
class History:
    """The entries in their order, and the outcomes of the calls."""

    entries: Sequence[Entry]
    outcome: Callable[[str], Outcome | None]


def history_of(
    run: Mapping[str, Any], calls: CallList, read_some: Outcomes, outcomes: Outcomes, item_count: ItemCount
) -> History:
    """The history of the function that ``run``, a message's header, describes, and whose calls these are.

    ``read_some`` may return fewer outcomes than it is asked for, but at least the first.

    Raises:
        InvalidStepInput: its run is not kept any more.
    """
    begun = list(_read(calls.batches, read_some))
    if None in begun:
        raise run_gone(run)
    numbers = calls.numbers
    left = iter(numbers)
    entries = [
        Entry(one[0], None, one[1]) if len(one) > 1 else Entry(one[0], next(left))
        for batch in begun
        for one in batch[Suspended.FIELD]["entries"]
    ]
    found = dict(zip(numbers, _read(numbers, read_some), strict=True))

    def outcome(number: str) -> Outcome | None:
        wire = found[number]
        return None if wire is None else outcome_in_run(wire, outcomes, item_count)

    return History(entries, outcome)


def _read(numbers: Sequence[str], read_some: Outcomes) -> Iterator[Any]:
    at = 0
    while at < len(numbers):
        # They may be fewer, if they are long.
        some = read_some(numbers[at : at + _AT_ONCE])
        yield from some
        at += len(some)


def fingerprint_of(call: StepDefinition) -> str:
    """The fingerprint of a call, with the sum of its arguments: equal if an execution asks for the same again.

    Raises:
        InvalidExpansion: it is no call, or its arguments are not JSON data.
    """
    match call.message:
        case None if call.event is not None:
            return f"wait_event {call.event}"
        case None:
            return f"sleep {call.wait_s}"
        case Message() as message:
            agent = call.to if isinstance(call.to, str) else getattr(call.to, "name", "")
            name = message_name(type(message))
            return f"call {f'{agent}.{name}' if agent else name} {_sum(encode(message), of_task=False)}"
        case Signature() as signature if not is_canvas(signature):
            return f"call {signature.task} {_sum([list(signature.args), dict(signature.kwargs)])}"
        case Task() as task:
            return f"call {task.name} {_sum([[], {}])}"
    allowed = "an agent and a message, a signature or a task (one that returns Expand(canvas) does a canvas)"
    raise InvalidExpansion([f"{masked_repr(call.message)} cannot be called; allowed: {allowed}"])


def _sum(arguments: Any, *, of_task: bool = True) -> str:
    try:
        if of_task:
            # What Celery sends is less than what a model may have: no set, for one.
            dumps(arguments)
        text = json.dumps(to_jsonable_python(arguments), sort_keys=True)
    except Exception as error:
        # Models' serialisers may raise anything.
        raise InvalidExpansion([f"arguments that are not JSON data: {error}"]) from error
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SUM]
