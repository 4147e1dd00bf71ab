"""Retry policies: what happens after a failed attempt, as pure functions of the attempt and the error."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.errors import InvalidPolicy

#: Longest pause between two attempts that may be asked for: 30 days.
MAX_PAUSE_S: Final = 30 * 24 * 3600.0


class OnError(StrEnum):
    """What to do with a message whose attempts are used up."""

    RAISE = "raise"
    LOG = "log"
    DEAD_LETTER = "dead_letter"
    IGNORE = "ignore"


def _checked(name: str, value: float, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidPolicy(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential backoff: ``first_s * factor ** (attempt - 1)``, at most ``cap_s``.

    ``jitter`` is the share of the pause that is drawn at random: 0 none, 1 "full jitter" as in
    M. Brooker, *Exponential Backoff And Jitter* (AWS Architecture Blog, 2015).

    Raises:
        InvalidPolicy: a value is out of range.
    """

    first_s: float = 0.5
    factor: float = 2.0
    cap_s: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _checked("first_s", self.first_s, 0, MAX_PAUSE_S)
        _checked("factor", self.factor, 1, 1000)
        _checked("cap_s", self.cap_s, 0, MAX_PAUSE_S)
        _checked("jitter", self.jitter, 0, 1)

    def pause_s(self, attempt: int, draw: float) -> float:
        """Pause after failed attempt number ``attempt`` (from 1); ``draw`` is uniform in [0, 1)."""
        try:
            full_s = min(self.cap_s, self.first_s * self.factor ** (attempt - 1))
        except OverflowError:
            full_s = self.cap_s if self.first_s else 0.0
        return full_s * (1 - self.jitter * draw)


def _attempts(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1000:
        raise InvalidPolicy(name, value, "a whole number from 0 to 1000")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed attempt is repeated.

    ``max_retries`` repeats come after the first attempt, so a message is tried at most
    ``max_retries + 1`` times. ``never`` names exception classes (by ``__name__``, base classes count) that
    are not worth repeating.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    max_retries: int = 3
    backoff: Exponential = field(default_factory=Exponential)
    never: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _attempts("max_retries", self.max_retries)
        if not isinstance(self.backoff, Exponential):
            raise InvalidPolicy("backoff", self.backoff, "an Exponential")
        # A mere string would be searched for parts of names.
        if not isinstance(self.never, tuple | list) or not all(isinstance(name, str) for name in self.never):
            raise InvalidPolicy("never", self.never, "a tuple of names of exception classes")
        object.__setattr__(self, "never", tuple(self.never))

    def to_wire(self) -> dict[str, Any]:
        """The policy as plain JSON, short, for a message's headers."""
        b = self.backoff
        wire: dict[str, Any] = {"n": self.max_retries, "b": [b.first_s, b.factor, b.cap_s, b.jitter]}
        if self.never:
            wire["x"] = list(self.never)
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Retry:
        """Inverse of :meth:`to_wire`.

        Raises:
            InvalidPolicy: the headers hold something else.
        """
        try:
            first_s, factor, cap_s, jitter = wire["b"]
            return cls(wire["n"], Exponential(first_s, factor, cap_s, jitter), wire.get("x", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidPolicy("retry", wire, "what Retry.to_wire() makes") from error


#: Never repeated: the library's own word that repeating cannot help.
ALWAYS_FINAL: Final = ("InvalidMessage", "UnknownMessage")


def error_names(error: BaseException) -> tuple[str, ...]:
    """Names of the error's class and its bases, most specific first; policies match on these."""
    return tuple(c.__name__ for c in type(error).__mro__ if issubclass(c, Exception))


def next_pause_s(retry: Retry, attempt: int, names: tuple[str, ...], draw: float | None = None) -> float | None:
    """Seconds until the next attempt, or ``None`` when there is none.

    ``attempt`` is the number of the attempt that just failed, from 1. ``draw`` fixes the jitter for tests.
    """
    if attempt > retry.max_retries:
        return None
    if any(name in retry.never or name in ALWAYS_FINAL for name in names):
        return None
    # Jitter only spreads load; nothing secret hangs on it.
    return retry.backoff.pause_s(attempt, random.random() if draw is None else draw)
