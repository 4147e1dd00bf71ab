"""Timeouts in one place: a default, by agent, message and pattern, and a factor for slow surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Final, TypeVar

from orchestrator.core.policies.effective import Effective, Policy, merge

V = TypeVar("V")

#: Tasks whose policy is remembered. Names of tasks that nobody declares may be anything.
_REMEMBERED: Final = 10_000


def most_specific(patterns: Mapping[str, V], names: tuple[str, ...]) -> V | None:
    """The value of the most specific pattern (as in :mod:`fnmatch`) that matches one of the names.

    A name itself precedes all patterns, an earlier name a later one; of several patterns, the one with the most
    characters that are no wildcards counts.
    """
    for name in names:
        if name in patterns:
            return patterns[name]
    fitting = [pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in names)]
    if not fitting:
        return None
    return patterns[max(fitting, key=lambda pattern: (len(pattern.replace("*", "").replace("?", "")), pattern))]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The settings' part of a policy (see :mod:`orchestrator.core.policies.effective`).

    Keys are ``agent.Message``, ``agent``, a task's name, or a pattern of these.
    """

    timeouts: Mapping[str, float] = field(default_factory=dict)
    deadlines: Mapping[str, float] = field(default_factory=dict)
    #: Multiplies every timeout and deadline, wherever it comes from.
    factor: float = 1.0
    #: Whether an expired message becomes a dead letter, unless another level says otherwise.
    dead_letter_expired: bool = False
    #: The timeout of a message for which no level has one; 0: none.
    default_s: float = 0.0
    #: The seconds of each class of timeouts.
    classes: Mapping[str, float] = field(default_factory=dict)
    _known: dict[tuple[str, str], Policy] = field(default_factory=dict, init=False, repr=False, compare=False)
    _plain: dict[str, Effective] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def floor(self) -> Policy:
        """The settings' values that apply where no other level has one."""
        return Policy(dead_letter_expired=self.dead_letter_expired or None)

    def policy(self, task: str, agent: str = "") -> Policy:
        """The settings' policy for a task."""
        known = self._known.get((task, agent))
        if known is None:
            names = (task, agent) if agent else (task,)
            known = Policy(
                timeout_s=most_specific(self.timeouts, names), deadline_s=most_specific(self.deadlines, names)
            )
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[task, agent] = known
        return known

    def merged(self, task: str, agent: str = "", *declared: tuple[str, Policy]) -> Effective:
        """The policy of a task's messages unless their send says otherwise, from what code has ``declared``.

        The default timeout is last: it is for messages for which no level has a timeout.
        """
        if agent or declared:
            return self._merge(task, agent, *declared)
        known = self._plain.get(task)
        if known is None:
            if len(self._plain) >= _REMEMBERED:
                self._plain.clear()
            known = self._plain[task] = self._merge(task, "")
        return known

    def _merge(self, task: str, agent: str, *declared: tuple[str, Policy]) -> Effective:
        effective = merge(("settings", self.floor), *declared, ("settings", self.policy(task, agent)))
        if not self.default_s or effective.timeout_s is not None:
            return effective
        return replace(effective.over("settings", Policy(timeout_s=self.default_s)), has_default_timeout=True)

    def scaled(self, value_s: float | None) -> float | None:
        """A timeout or deadline, multiplied by ``factor``."""
        return None if value_s is None else value_s * self.factor
