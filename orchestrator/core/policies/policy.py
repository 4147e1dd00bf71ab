"""Retry policies, as pure functions of the attempt and the error."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.checks.numbers import check_number, check_whole_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_options

#: The longest pause between two attempts that a policy may have: 30 days.
MAX_PAUSE_S: Final = 30 * 24 * 3600.0


class OnError(StrEnum):
    """The treatment of a message that has no attempt left."""

    RAISE = "raise"
    LOG = "log"
    DEAD_LETTER = "dead_letter"
    IGNORE = "ignore"


class WhenOpen(StrEnum):
    """The treatment of a message to an agent whose circuit breaker is open."""

    #: It is refused.
    ERROR = "error"
    #: It waits behind the breaker, and is let go in its turn once that admits it.
    QUEUE = "queue"


class WhenDown(StrEnum):
    """The treatment of a message to an agent that no living incarnation hosts."""

    #: It waits in the mailbox.
    QUEUE = "queue"
    #: It is refused, as Erlang's *noproc*.
    ERROR = "error"


@named_options
@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential backoff: ``initial_s * factor ** (attempt - 1)``, at most ``cap_s``.

    ``jitter`` is the share of the pause that is drawn at random: 0 none, 1 "full jitter" as in
    M. Brooker, *Exponential Backoff And Jitter* (AWS Architecture Blog, 2015).

    Raises:
        InvalidPolicy: a value is out of range.
    """

    initial_s: float = 0.5
    factor: float = 2.0
    cap_s: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        check_number("initial_s", self.initial_s, 0, MAX_PAUSE_S)
        check_number("factor", self.factor, 1, 1000)
        check_number("cap_s", self.cap_s, 0, MAX_PAUSE_S)
        check_number("jitter", self.jitter, 0, 1)

    def pause_s(self, attempt: int, draw: float) -> float:
        """Pause after failed attempt number ``attempt`` (from 1); ``draw`` is uniform in [0, 1)."""
        try:
            full_s = min(self.cap_s, self.initial_s * self.factor ** (attempt - 1))
        except OverflowError:
            full_s = self.cap_s if self.initial_s else 0.0
        return full_s * (1 - self.jitter * draw)


@named_options
@dataclass(frozen=True, slots=True)
class Linear:
    """Linear backoff: ``initial_s + step_s * (attempt - 1)``, at most ``cap_s``; ``jitter`` as in :class:`Exponential`.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    initial_s: float = 1.0
    step_s: float = 1.0
    cap_s: float = 60.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("initial_s", "step_s", "cap_s"):
            check_number(name, getattr(self, name), 0, MAX_PAUSE_S)
        check_number("jitter", self.jitter, 0, 1)

    def pause_s(self, attempt: int, draw: float) -> float:
        """Pause after failed attempt number ``attempt`` (from 1); ``draw`` is uniform in [0, 1)."""
        return min(self.cap_s, self.initial_s + self.step_s * (attempt - 1)) * (1 - self.jitter * draw)


@named_options
@dataclass(frozen=True, slots=True)
class Constant:
    """The same pause after every attempt; ``jitter`` as in :class:`Exponential`.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    delay_s: float = 1.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        check_number("delay_s", self.delay_s, 0, MAX_PAUSE_S)
        check_number("jitter", self.jitter, 0, 1)

    def pause_s(self, attempt: int, draw: float) -> float:
        """Pause after any failed attempt; ``draw`` is uniform in [0, 1)."""
        return self.delay_s * (1 - self.jitter * draw)


Backoff = Exponential | Linear | Constant


def _backoff_to_wire(backoff: Backoff) -> list[Any]:
    match backoff:
        case Exponential(initial_s, factor, cap_s, jitter):
            return [initial_s, factor, cap_s, jitter]
        case Linear(initial_s, step_s, cap_s, jitter):
            return ["linear", initial_s, step_s, cap_s, jitter]
        case Constant(delay_s, jitter):
            return ["constant", delay_s, jitter]


def _backoff_from_wire(wire: Any) -> Backoff:
    match list(wire):
        case ["linear", initial_s, step_s, cap_s, jitter]:
            return Linear(initial_s, step_s, cap_s, jitter)
        case ["constant", delay_s, jitter]:
            return Constant(delay_s, jitter)
        case [initial_s, factor, cap_s, jitter]:
            return Exponential(initial_s, factor, cap_s, jitter)
    raise ValueError(wire)


def _names(option: str, names: Any) -> tuple[str, ...]:
    # A string would match parts of names.
    allowed = "a tuple of exception classes or their names"
    if not isinstance(names, tuple | list):
        raise InvalidPolicy(option, names, allowed)
    found = []
    for name in names:
        if isinstance(name, type) and issubclass(name, BaseException):
            found.append(name.__name__)
        elif isinstance(name, str):
            found.append(name)
        else:
            raise InvalidPolicy(option, names, allowed)
    return tuple(found)


@named_options
@dataclass(frozen=True, slots=True)
class Retry:
    """The retries of a failed attempt: how many, and after which pauses.

    ``max_retries`` come after the first attempt, so a message has at most ``max_retries + 1`` attempts. ``on`` and
    ``never`` hold exception classes or their names (base classes count): with ``on``, other errors are not retried;
    errors in ``never`` are not retried even if they are in ``on``.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    max_retries: int = 3
    backoff: Backoff = field(default_factory=Exponential)
    never: tuple[str | type[BaseException], ...] = ()
    on: tuple[str | type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        check_whole_number("max_retries", self.max_retries, 0, 1000)
        if not isinstance(self.backoff, Exponential | Linear | Constant):
            raise InvalidPolicy("backoff", self.backoff, "an Exponential, a Linear or a Constant")
        object.__setattr__(self, "never", _names("never", self.never))
        object.__setattr__(self, "on", _names("on", self.on))

    def to_wire(self) -> dict[str, Any]:
        """The policy as plain JSON, short, for a message's headers."""
        wire: dict[str, Any] = {"n": self.max_retries, "b": _backoff_to_wire(self.backoff)}
        if self.never:
            wire["x"] = list(self.never)
        if self.on:
            wire["o"] = list(self.on)
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Retry:
        """Inverse of :meth:`to_wire`.

        Raises:
            InvalidPolicy: the headers hold something else.
        """
        try:
            return cls(wire["n"], _backoff_from_wire(wire["b"]), wire.get("x", ()), wire.get("o", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidPolicy("retry", wire, "what Retry.to_wire() makes") from error

    def repeats(self, names: tuple[str, ...]) -> bool:
        """Whether an error with these names (its own and its bases') is retried."""
        if any(name in self.never or name in ALWAYS_FINAL for name in names):
            return False
        return not self.on or any(name in self.on for name in names)

    def pauses_s(self) -> float:
        """The sum of all pauses, without jitter."""
        return sum(self.backoff.pause_s(attempt, 0.0) for attempt in range(1, self.max_retries + 1))


#: Errors of this library that are never retried, because a retry cannot succeed.
ALWAYS_FINAL: Final = ("InvalidMessage", "UnknownMessage", "DeadlinePassed")


def error_names(error: BaseException) -> tuple[str, ...]:
    """Names of the error's class and its bases, most specific first; policies match on these."""
    return tuple(c.__name__ for c in type(error).__mro__ if issubclass(c, BaseException))


def next_pause_s(retry: Retry, attempt: int, names: tuple[str, ...], draw: float | None = None) -> float | None:
    """Seconds until the next attempt, or ``None`` when there is none.

    ``attempt`` is the number of the attempt that just failed, from 1. ``draw`` fixes the jitter for tests.
    """
    if attempt > retry.max_retries or not retry.repeats(names):
        return None
    # Jitter only spreads load, so it need not be unpredictable.
    return retry.backoff.pause_s(attempt, random.random() if draw is None else draw)
