"""Timeouts in one place: by agent, message and pattern, and a factor for slow surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeVar

from orchestrator.core.effective import Policy

V = TypeVar("V")


def most_specific(patterns: Mapping[str, V], names: tuple[str, ...]) -> V | None:
    """The value of the pattern (as in :mod:`fnmatch`) that says most about one of the names.

    A name itself counts before any pattern, an earlier name before a later; then the pattern with most letters
    that are not wild.
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
    """The settings' own level of policy.

    Keys are ``agent.Message``, ``agent``, a task's name, or a pattern of these.
    """

    timeouts: Mapping[str, float] = field(default_factory=dict)
    deadlines: Mapping[str, float] = field(default_factory=dict)
    #: Multiplies every timeout and deadline, wherever it comes from.
    factor: float = 1.0
    #: Whether what expires becomes a dead letter, where nobody says otherwise.
    dead_letter_expired: bool = False

    @property
    def floor(self) -> Policy:
        """What the settings say where nobody else says anything."""
        return Policy(dead_letter_expired=self.dead_letter_expired or None)

    def policy(self, task: str, agent: str = "") -> Policy:
        """What the settings say about a task."""
        names = (task, agent) if agent else (task,)
        return Policy(timeout_s=most_specific(self.timeouts, names), deadline_s=most_specific(self.deadlines, names))

    def scaled(self, value_s: float | None) -> float | None:
        """A timeout or deadline as it is enforced here."""
        return None if value_s is None else value_s * self.factor
