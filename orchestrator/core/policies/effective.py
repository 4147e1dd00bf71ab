"""The policy that applies to a send: each value comes from the nearest level that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

from orchestrator.core.checks.choices import check_choice
from orchestrator.core.checks.numbers import is_number, is_whole_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.plural import counted
from orchestrator.core.policies.policy import OnError, Retry, WhenDown, WhenOpen
from orchestrator.core.policies.timeout_classes import shown_seconds

_Choice = TypeVar("_Choice", bound=StrEnum)

_YEAR_S: Final = 365 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one level; ``None`` leaves a value to the level before.

    ``timeout_s`` bounds each attempt, ``deadline_s`` all of them with their pauses, counted from the send;
    ``expires_s`` is how long the message may wait for its first attempt,
    and ``dead_letter_expired`` whether it becomes a dead letter if that was too long.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    retry: Retry | None = None
    on_error: OnError | None = None
    timeout_s: float | None = None
    deadline_s: float | None = None
    expires_s: float | None = None
    priority: int | None = None
    when_down: WhenDown | None = None
    when_open: WhenOpen | None = None
    dead_letter_expired: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.retry, Retry | None):
            raise InvalidPolicy("retry", self.retry, "a Retry")
        timeout_s: object = self.timeout_s
        if isinstance(timeout_s, str):
            allowed = "seconds above 0, up to a year; a class of timeout_classes only in declarations and settings"
            raise InvalidPolicy("timeout_s", timeout_s, allowed)
        for name in ("timeout_s", "deadline_s", "expires_s"):
            seconds(name, getattr(self, name), above=True)
        priority_of(self.priority)
        if not isinstance(self.dead_letter_expired, bool | None):
            raise InvalidPolicy("dead_letter_expired", self.dead_letter_expired, "True or False")
        object.__setattr__(self, "on_error", _choice("on_error", OnError, self.on_error))
        object.__setattr__(self, "when_down", _choice("when_down", WhenDown, self.when_down))
        object.__setattr__(self, "when_open", _choice("when_open", WhenOpen, self.when_open))

    def to_wire(self) -> dict[str, Any]:
        """As JSON data, without the values that are ``None``."""
        wire = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        if self.retry is not None:
            wire["retry"] = self.retry.to_wire()
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Policy:
        """Inverse of :meth:`to_wire`; unknown names, as a newer version may have, are ignored.

        Raises:
            InvalidPolicy: a value is out of range.
        """
        said = {f.name: wire[f.name] for f in fields(cls) if f.name in wire}
        if "retry" in said:
            said["retry"] = Retry.from_wire(said["retry"])
        return cls(**said)


#: Options that have a default.
_DEFAULTS: Final = ("retry", "on_error", "when_down", "when_open")


@dataclass(frozen=True, slots=True)
class Effective:
    """The merged policy, and the level that each value comes from."""

    retry: Retry
    on_error: OnError
    when_down: WhenDown
    when_open: WhenOpen = WhenOpen.ERROR
    timeout_s: float | None = None
    deadline_s: float | None = None
    expires_s: float | None = None
    priority: int | None = None
    #: ``None`` leaves it to the settings of the worker.
    dead_letter_expired: bool | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    #: Whether ``timeout_s`` is the settings' default, which contradicts no deadline and no limit of Celery.
    has_default_timeout: bool = False

    def over(self, source: str, policy: Policy) -> Effective:
        """This policy with the values of a nearer level."""
        said = {name: value for name in _OPTIONS if (value := getattr(policy, name)) is not None}
        if not said:
            return self
        is_default = self.has_default_timeout and "timeout_s" not in said
        sources = {**self.sources, **dict.fromkeys(said, source)}
        return replace(self, **said, sources=sources, has_default_timeout=is_default)


_OPTIONS: Final = tuple(f.name for f in fields(Policy))


def merge(*levels: tuple[str, Policy]) -> Effective:
    """Merge levels, from the farthest to the nearest."""
    effective = Effective(Retry(), OnError.DEAD_LETTER, WhenDown.QUEUE, sources=dict.fromkeys(_DEFAULTS, "default"))
    for source, policy in levels:
        effective = effective.over(source, policy)
    return effective


def impossible(effective: Effective) -> list[str]:
    """Values that contradict each other: one line each, with their sources and what is allowed."""
    if (
        effective.deadline_s is None
        or effective.timeout_s is None
        or effective.timeout_s <= effective.deadline_s
        or effective.has_default_timeout
    ):
        return []
    by = {name: effective.sources.get(name, "default") for name in ("timeout_s", "deadline_s")}
    said = f"timeout_s={shown_seconds(effective.timeout_s)} (said by {by['timeout_s']})"
    allowed = f"at most deadline_s={effective.deadline_s:g} (said by {by['deadline_s']}), which ends it first"
    return [f"{said}; allowed: {allowed}"]


def wasteful(effective: Effective, factor: float = 1.0) -> list[str]:
    """Values that are allowed, but leave no time for all attempts: one line each.

    Timeouts and deadlines are multiplied by ``factor``, the pauses between attempts are not.
    """
    if effective.deadline_s is None or impossible(effective):
        return []
    attempts, pauses_s = effective.retry.max_retries + 1, effective.retry.pauses_s()
    timeout_s = 0.0 if effective.has_default_timeout else (effective.timeout_s or 0) * factor
    deadline_s = effective.deadline_s * factor
    whole_s = timeout_s * attempts + pauses_s
    if whole_s <= deadline_s:
        return []
    each = f" of up to {timeout_s:g} s" if timeout_s else ""
    whole = f"{counted(attempts, 'attempt')}{each} with {pauses_s:g} s of pauses take up to {whole_s:g} s"
    scaled = "" if factor == 1 else f" (times as timeout_factor={factor:g} makes them)"
    return [f"{whole}; deadline_s={deadline_s:g} cuts the last ones off{scaled}"]


def seconds(name: str, value: float | None, *, above: bool = False) -> float | None:
    """Check seconds: at most a year, with ``above`` more than 0, else 0 or more.

    Raises:
        InvalidPolicy: the value is none of these.
    """
    if value is None:
        return None
    if not is_number(value, 0, _YEAR_S) or (above and not value):
        raise InvalidPolicy(name, value, "seconds above 0, up to a year" if above else "seconds from 0 to a year")
    return float(value)


def priority_of(value: int | None) -> int | None:
    """Check a priority: 0 (first) to 9 (last), as in kombu's Redis transport.

    Raises:
        InvalidPolicy: the value is none of these.
    """
    if value is not None and not is_whole_number(value, 0, 9):
        raise InvalidPolicy("priority", value, "0 (first) to 9 (last)")
    return value


def _choice(name: str, choices: type[_Choice], value: str | None) -> _Choice | None:
    return None if value is None else check_choice(name, choices, value)
