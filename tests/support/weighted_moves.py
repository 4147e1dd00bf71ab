"""State machines whose moves are drawn by weight, and only where they can do something.

Of a machine's rules, Hypothesis leaves out half in each example, at random, and draws the others alike. That finds much
with thousands of examples, and little with twenty-five.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

Method = TypeVar("Method", bound=Callable[..., Any])

#: The values of an argument: always the same, or according to the machine.
Values: TypeAlias = "st.SearchStrategy[Any] | Callable[[Any], st.SearchStrategy[Any]]"


@dataclass(frozen=True)
class Move:
    """What a machine may do."""

    weight: int
    #: Whether it can do something now.
    when: Callable[[Any], Any]
    arguments: dict[str, Values]


def move(
    weight: int = 1, *, when: Callable[[Any], Any] = lambda machine: True, **arguments: Values
) -> Callable[[Method], Method]:
    """Mark a method of a :class:`WeightedMachine` as one of its moves, with its arguments."""

    def mark(method: Method) -> Method:
        method.move = Move(weight, when, arguments)  # type: ignore[attr-defined]
        return method

    return mark


class WeightedMachine(RuleBasedStateMachine):
    """A machine with one rule, which makes one of the moves."""

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Make a move."""
        moves: dict[str, Move] = {}
        # Several moves have the same condition, which may ask Redis.
        holds: dict[Callable[[Any], Any], bool] = {}
        methods = {name: method for one in reversed(type(self).__mro__) for name, method in vars(one).items()}
        for name, method in methods.items():
            known = getattr(method, "move", None)
            if not isinstance(known, Move):
                continue
            if known.when not in holds:
                holds[known.when] = bool(known.when(self))
            if holds[known.when]:
                moves[name] = known
        weighted = [name for name, known in moves.items() for _ in range(known.weight)]
        name = data.draw(st.sampled_from(weighted), label="move")
        values = {
            argument: known if isinstance(known, st.SearchStrategy) else known(self)
            for argument, known in moves[name].arguments.items()
        }
        arguments = data.draw(st.fixed_dictionaries(values), label="arguments")
        getattr(self, name)(**arguments)
