"""Whether a history of operations is linearizable: whether all of them can have happened one after the other.

After J. M. Wing and C. Gong, *Testing and verifying concurrent objects* (1993), and G. Lowe, *Testing for
linearizability* (2017): a depth-first search for an order, which remembers the configurations that it has seen. A
history is linearizable if that of each name is, so each name is checked for itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Operation:
    """What one process did with one name, from when until when, and what came of it."""

    process: str
    name: str
    act: str
    argument: Any
    result: Any
    invoked: float
    #: ``inf`` if nobody knows whether, and when, it took effect: its process was killed, or the answer was lost.
    returned: float = inf

    @property
    def is_known(self) -> bool:
        """Whether it certainly took effect before ``returned``."""
        return self.returned != inf


class Model(Protocol):
    """The object, as if operations came one at a time. States are hashable."""

    def initial(self) -> Hashable: ...
    def step(self, state: Any, operation: Operation) -> Hashable | None:
        """The state after an operation with that result; ``None`` if it cannot have that result there."""
        ...


@dataclass(frozen=True, slots=True)
class Violation:
    """A history that cannot be put in order."""

    name: str
    #: The longest order that was found, and what could not be put behind it.
    order: tuple[Operation, ...]
    stuck: tuple[Operation, ...]

    def __str__(self) -> str:
        tail = "\n  ".join(map(str, self.order[-5:]))
        return f"{self.name}: after\n  {tail}\nnone of these can follow:\n  " + "\n  ".join(map(str, self.stuck))


def find_violation(history: Iterable[Operation], model: Model) -> Violation | None:
    """The first name whose history is not linearizable; ``None`` if each is."""
    by_name: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        by_name[operation.name].append(operation)
    for name, operations in sorted(by_name.items()):
        violation = _check(name, operations, model)
        if violation is not None:
            return violation
    return None


class _Event:
    """An operation's call or return, in a list that is linked both ways."""

    __slots__ = ("after", "before", "call", "number", "returns")

    def __init__(self, number: int, *, call: bool) -> None:
        self.number = number
        self.call = call
        self.returns: _Event | None = None
        self.before: _Event = self
        self.after: _Event | None = None

    def lift(self) -> None:
        """Take a call and its return out of the list."""
        for event in (self, self.returns):
            if event is not None:
                event.before.after = event.after
                if event.after is not None:
                    event.after.before = event.before

    def unlift(self) -> None:
        """Put both back where they were."""
        for event in (self.returns, self):
            if event is not None:
                event.before.after = event
                if event.after is not None:
                    event.after.before = event


def _check(name: str, operations: Sequence[Operation], model: Model) -> Violation | None:
    head = _events(operations)
    state: Any = model.initial()
    done = 0
    seen: set[tuple[int, Hashable]] = {(0, state)}
    stack: list[tuple[_Event, Any]] = []
    longest: list[int] = []
    event = head.after
    while _is_open(head, operations):
        if event is not None and event.call:
            operation = operations[event.number]
            following: Any = model.step(state, operation)
            mark = (done | 1 << event.number, following)
            if following is not None and mark not in seen:
                seen.add(mark)
                stack.append((event, state))
                state, done = following, mark[0]
                event.lift()
                event = head.after
                if len(stack) > len(longest):
                    longest = [one.number for one, _ in stack]
            else:
                event = event.after
            continue
        # A return whose call is not in the order yet, or the end of the list: the last choice was wrong.
        if not stack:
            open_ones = [one for number, one in enumerate(operations) if number not in longest and one.is_known]
            soonest = min((one.returned for one in open_ones), default=inf)
            stuck = tuple(one for one in open_ones if one.invoked <= soonest)
            return Violation(name, tuple(operations[number] for number in longest), stuck)
        last, state = stack.pop()
        done &= ~(1 << last.number)
        last.unlift()
        event = last.after
    return None


def _is_open(head: _Event, operations: Sequence[Operation]) -> bool:
    """Whether an operation is left that certainly took effect. Calls without a return are last in no order."""
    event = head.after
    while event is not None:
        if not event.call or operations[event.number].is_known:
            return True
        event = event.after
    return False


def _events(operations: Sequence[Operation]) -> _Event:
    times: list[tuple[float, int, _Event]] = []
    for number, operation in enumerate(operations):
        call = _Event(number, call=True)
        times.append((operation.invoked, 0, call))
        if operation.is_known:
            call.returns = _Event(number, call=False)
            times.append((operation.returned, 1, call.returns))
    head = last = _Event(-1, call=False)
    # At the same moment a call comes before a return: then both orders are possible.
    for _, _, event in sorted(times, key=lambda one: one[:2]):
        event.before, last.after = last, event
        last = event
    return head
