"""What leases, semaphores, elections, barriers, a guarded counter and ballots do when operations come one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.history.linearizability import Operation


@dataclass(frozen=True)
class Permits:
    """A mutex with fencing tokens if there is one permit, else a semaphore.

    ``acquire`` results in a token; ``release`` has it as its argument. The state is what is held, and the last token.
    """

    permits: int = 1

    def initial(self) -> Any:
        return frozenset(), 0

    def step(self, state: Any, operation: Operation) -> Any:
        held, last = state
        if operation.act == "acquire":
            fence = operation.result
            if fence is None:
                # Nobody knows with which token; nobody will release it by one either.
                return state
            return (held | {fence}, fence) if len(held) < self.permits and fence > last else None
        if operation.argument in held:
            return held - {operation.argument}, last
        return None


@dataclass(frozen=True)
class Election:
    """As a mutex; ``leader`` results in the number of the term that goes on, or in ``None``."""

    def initial(self) -> Any:
        return None, 0

    def step(self, state: Any, operation: Operation) -> Any:
        leads, last = state
        match operation.act:
            case "campaign":
                number = operation.result
                if number is None:
                    return state
                return (number, number) if leads is None and number > last else None
            case "resign":
                return (None, last) if operation.argument == leads else None
            case _:
                return state if operation.result == leads else None


@dataclass(frozen=True)
class Counter:
    """A number that holders of a lease increment; ``increment`` results in the new one, or in "refused"."""

    def initial(self) -> Any:
        return 0

    def step(self, state: Any, operation: Operation) -> Any:
        if operation.result == "refused":
            return state
        if operation.result is None:
            return state + 1
        return operation.result if operation.result == state + 1 else None


@dataclass(frozen=True)
class Line:
    """Who waits is served in order of arrival: ``arrive`` puts a ticket into the line, ``serve`` takes the first.

    ``leave`` takes the first one, too: that one in the middle has left matters when its turn comes.
    """

    def initial(self) -> Any:
        return ()

    def step(self, state: Any, operation: Operation) -> Any:
        if operation.act == "arrive":
            return (*state, operation.argument)
        return state[1:] if state and state[0] == operation.argument else None


@dataclass(frozen=True)
class CyclicBarrier:
    """``arrive`` results in the number of the generation, ``pass`` of a generation in "tripped" or "broken".

    The state is the generation that goes on (0 if nobody knows its number), who has arrived at it, the last number, and
    the generations that have tripped.
    """

    parties: int

    def initial(self) -> Any:
        return 0, frozenset(), 0, frozenset()

    def step(self, state: Any, operation: Operation) -> Any:
        current, arrived, last, tripped = state
        if operation.act == "pass":
            generation = operation.argument
            if generation > last or (generation in tripped) is not (operation.result == "tripped"):
                return None
            broken_now = operation.result == "broken" and generation == current
            return (0, frozenset(), last, tripped) if broken_now else state
        generation = operation.result
        if generation is None:
            # It was counted, and nobody knows where.
            return self._counted(current, arrived | {operation.argument}, last, tripped)
        if generation == current or (current == 0 and arrived and generation > last):
            return self._counted(generation, arrived | {operation.argument}, generation, tripped)
        # The one before has broken, if there was one, and nobody has seen it.
        if generation <= last:
            return None
        return self._counted(generation, frozenset({operation.argument}), generation, tripped)

    def _counted(self, current: int, arrived: frozenset[Any], last: int, tripped: frozenset[int]) -> Any:
        if len(arrived) < self.parties:
            return current, arrived, last, tripped
        return 0, frozenset(), last, tripped | {current}


@dataclass(frozen=True)
class DecideOnce:
    """A register that is written once.

    ``read`` results in "open", or in what was decided and the reason of the cancellation that has decided it, or
    ``None``. ``cancel`` for a reason results in whether that has decided; for what else decides there is no operation.
    The state is "open" or such a pair; what was decided is ``None`` until somebody has read it.
    """

    def initial(self) -> Any:
        return "open"

    def step(self, state: Any, operation: Operation) -> Any:
        is_open, result = state == "open", operation.result
        if operation.act == "cancel":
            if is_open:
                return None, None if result is False else operation.argument
            # Whose answer was lost may have come too late.
            return None if result is True else state
        if result == "open" or is_open:
            return result if is_open and (result == "open" or result[1] is None) else None
        return result if state in ((None, result[1]), result) else None
