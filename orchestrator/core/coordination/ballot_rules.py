"""The rules of ballots as users write them, and the threshold of each for its voters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from orchestrator.core.checks.numbers import check_whole_number, is_number, is_whole_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.plural import counted
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.option_names import named_options

#: The weights of all voters, times the denominator of a share, stay whole numbers in Lua's floats.
MOST_WEIGHT: Final = 1_000_000
_MOST_DENOMINATOR: Final = 10_000

#: Voters of one ballot, at most.
MOST_VOTERS: Final = 1000

_WEIGHTS: Final = f"for each voter, and nobody else, a whole number from 1 to {MOST_WEIGHT}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A rule of approvals: enough are a share of the votes that are cast, and a least weight."""

    numerator: int
    denominator: int
    #: Whether more than the share is needed.
    is_strict: bool
    least: int

    def is_met(self, approved: int, cast: int) -> bool:
        """Whether approvals of that weight, of all votes of that weight, are enough."""
        has, needed = approved * self.denominator, self.numerator * cast
        return approved >= self.least and (has > needed if self.is_strict else has >= needed)


@dataclass(frozen=True, slots=True)
class Majority:
    """More than half of those who vote."""

    def __str__(self) -> str:
        return "more than half of those who vote"

    def threshold(self, voters: Sequence[str]) -> Threshold:
        """The threshold for these voters."""
        return Threshold(1, 2, True, 1)


@dataclass(frozen=True, slots=True)
class Unanimous:
    """All who vote, and at least one."""

    def __str__(self) -> str:
        return "all who vote"

    def threshold(self, voters: Sequence[str]) -> Threshold:
        """The threshold for these voters."""
        return Threshold(1, 1, False, 1)


@named_options
@dataclass(frozen=True, slots=True)
class Quorum:
    """At least ``approvals`` voters, however the others vote.

    Raises:
        InvalidPolicy: it is no whole number from 1 on.
    """

    approvals: int

    def __post_init__(self) -> None:
        check_whole_number("approvals", self.approvals, 1, MOST_VOTERS)

    def __str__(self) -> str:
        return f"at least {counted(self.approvals, 'voter')}"

    def threshold(self, voters: Sequence[str]) -> Threshold:
        """The threshold for these voters.

        Raises:
            InvalidPolicy: there are not so many voters.
        """
        if not is_whole_number(self.approvals, 1, len(voters)):
            raise InvalidPolicy("approvals", self.approvals, f"a whole number from 1 to {len(voters)}, the voters")
        return Threshold(0, 1, False, self.approvals)


@named_options
@dataclass(frozen=True, slots=True)
class Weighted:
    """Voters whose weights are at least a ``share`` of the weights of those who vote.

    ``weights`` has a whole number for each voter, by the agent's name. ``share`` is above 0, at most 1; it is taken as
    the nearest fraction with a denominator of at most 10,000, so that ``2 / 3`` is two thirds.

    Raises:
        InvalidPolicy: a weight or the share is not allowed.
    """

    weights: Mapping[str, int]
    share: float | Fraction

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise InvalidPolicy("weights", self.weights, _WEIGHTS)
        self._refuse(f"{name!r} is no name" for name in self.weights if not isinstance(name, str))
        self._refuse(
            f"{name}={masked_repr(w)}" for name, w in self.weights.items() if not is_whole_number(w, 1, MOST_WEIGHT)
        )
        share: Any = self.share
        if not (is_number(share, 0, 1) or (isinstance(share, Fraction) and 0 <= share <= 1)):
            raise InvalidPolicy("share", share, "a number above 0, at most 1")
        if not self._fraction():
            raise InvalidPolicy("share", share, f"a number above 0, at most 1, and at least 1/{_MOST_DENOMINATOR}")

    def _fraction(self) -> Fraction:
        return Fraction(self.share).limit_denominator(_MOST_DENOMINATOR)

    def _refuse(self, faults: Iterable[str]) -> None:
        if found := list(faults):
            raise InvalidPolicy("weights", "; ".join(found[:20]), _WEIGHTS)

    def __str__(self) -> str:
        return f"{float(self.share):g} of the weight of those who vote"

    def threshold(self, voters: Sequence[str]) -> Threshold:
        """The threshold for these voters.

        Raises:
            InvalidPolicy: the weights are not those of the voters.
        """
        self._refuse(
            [
                *(f"no weight of {name}" for name in voters if name not in self.weights),
                *(f"{name} is no voter" for name in self.weights if name not in voters),
            ]
        )
        fraction = self._fraction()
        return Threshold(fraction.numerator, fraction.denominator, False, 1)


Rule = Majority | Unanimous | Quorum | Weighted


def check_rule(rule: object) -> Rule:
    """A rule.

    Raises:
        InvalidPolicy: it is none.
    """
    if not isinstance(rule, Majority | Unanimous | Quorum | Weighted):
        raise InvalidPolicy("rule", rule, "Majority(), Unanimous(), Quorum(n) or Weighted({...}, share)")
    return rule


def weights_of(rule: Rule, voters: Sequence[str]) -> dict[str, int]:
    """The weight of each voter's vote."""
    return {name: rule.weights[name] if isinstance(rule, Weighted) else 1 for name in voters}
