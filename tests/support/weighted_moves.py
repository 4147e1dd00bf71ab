"""State machines whose moves are drawn by weight, and only where they can do something.

Of a machine's rules, Hypothesis leaves out half in each example, at random, and draws the others alike. That finds much
with thousands of examples, and little with twenty-five.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

Method = TypeVar("Method", bound=Callable[..., None])


@dataclass(frozen=True)
class Move:
    """What a machine may do."""

    weight: int
    #: Whether it can do something now.
    when: Callable[[Any], bool]
    arguments: dict[str, st.SearchStrategy[Any]]


def move(
    weight: int = 1, *, when: Callable[[Any], bool] = lambda machine: True, **arguments: st.SearchStrategy[Any]
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
        for name, method in vars(type(self)).items():
            known = getattr(method, "move", None)
            if isinstance(known, Move) and known.when(self):
                moves[name] = known
        weighted = [name for name, known in moves.items() for _ in range(known.weight)]
        name = data.draw(st.sampled_from(weighted), label="move")
        arguments = data.draw(st.fixed_dictionaries(moves[name].arguments), label="arguments")
        getattr(self, name)(**arguments)
