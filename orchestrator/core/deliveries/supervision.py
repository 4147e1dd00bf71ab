"""Supervision: the header ``orc`` of a message that this library has sent."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.policy import OnError, Retry, next_pause_s
from orchestrator.core.secrets.masked_repr import summary

#: The header's name.
HEADER = "orc"

#: Failed attempts that a message carries, at most; the oldest are dropped.
_FAILURES_KEPT = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt."""

    attempt: int
    type: str
    message: str
    traceback: str
    at: str
    by: str
    #: Whether it was the last one because the deadline left no time for another.
    out_of_time: bool = False
    #: Whether it was the last one because its policy does not retry such an error.
    final: bool = False

    def __repr__(self) -> str:
        return summary(self, ("attempt", "type", "message", "at", "by"))

    def to_wire(self) -> dict[str, Any]:
        """As JSON data."""
        wire: dict[str, Any] = {
            "attempt": self.attempt,
            "type": self.type,
            "message": self.message,
            "traceback": self.traceback,
            "at": self.at,
            "by": self.by,
        }
        for name in ("out_of_time", "final"):
            if getattr(self, name):
                wire[name] = True
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Failure:
        """Inverse of :meth:`to_wire`; missing values are empty."""
        texts = {name: str(wire.get(name, "")) for name in ("type", "message", "traceback", "at", "by")}
        attempt = wire.get("attempt", 0)
        return cls(
            attempt=attempt if isinstance(attempt, int) else 0,
            out_of_time=wire.get("out_of_time") is True,
            final=wire.get("final") is True,
            **texts,
        )


@dataclass(frozen=True, slots=True)
class Supervision:
    """The supervision of one message: its policy, and its failed attempts so far."""

    retry: Retry = field(default_factory=Retry)
    on_error: OnError = OnError.DEAD_LETTER
    agent: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    track: bool = True
    replay_of: str = ""
    #: The longest time of one attempt.
    timeout_s: float | None = None
    #: When all attempts must be over, in seconds since 1970 by the sender's clock.
    deadline_at_s: float | None = None
    #: Idempotency key, and the ms after the outcome for which it is kept.
    idempotency: tuple[str, int] | None = None
    #: Whether it becomes a dead letter if it expires; ``None`` leaves it to the worker's settings.
    dead_letter_expired: bool | None = None
    #: Names of the message's secret fields, in addition to those in the settings.
    hide: tuple[str, ...] = ()
    #: If it is a step of a workflow: ``uid`` and ``id`` of the run, ``step`` and its ``name``, and ``refs`` if its
    #: arguments have references: the outcomes of these by the numbers of their steps if they are short, else 1.
    run: Mapping[str, Any] | None = None
    #: Whether it is the request of an ask, so that a copy of its result is kept in the reply.
    ask: bool = False
    #: ``"fail"`` if it must not run again after a worker has died while it had it.
    on_death: str = ""
    #: The conversation that it belongs to (see :class:`orchestrator.core.calls.conversation.Conversation`).
    conversation: Mapping[str, Any] | None = None
    #: ``"queue"`` if it is to wait behind its agent's open breaker; read by the script that accepts it.
    when_open: str = ""

    def __repr__(self) -> str:
        return summary(self, ("agent", "message", "on_error", "metadata", "failures"), self.hide)

    def to_wire(self) -> dict[str, Any]:
        """As JSON data, without empty values."""
        wire: dict[str, Any] = {"retry": self.retry.to_wire(), "on_error": self.on_error.value}
        if self.agent:
            wire["agent"] = self.agent
        if self.message:
            wire["message"] = self.message
        if self.metadata:
            wire["metadata"] = dict(self.metadata)
        if self.track:
            wire["track"] = self.track
        if self.replay_of:
            wire["replay_of"] = self.replay_of
        if self.timeout_s:
            wire["timeout_s"] = self.timeout_s
        if self.deadline_at_s:
            wire["deadline_at_s"] = self.deadline_at_s
        if self.idempotency is not None:
            wire["idempotency"] = list(self.idempotency)
        if self.dead_letter_expired is not None:
            wire["dead_letter_expired"] = self.dead_letter_expired
        if self.hide:
            wire["hide"] = list(self.hide)
        if self.run:
            wire["run"] = dict(self.run)
        if self.ask:
            wire["ask"] = True
        if self.on_death:
            wire["on_death"] = self.on_death
        if self.conversation:
            wire["conversation"] = dict(self.conversation)
        if self.when_open:
            wire["when_open"] = self.when_open
        if self.failures:
            wire["failures"] = [failure.to_wire() for failure in self.failures]
        return wire

    @classmethod
    def from_wire(cls, wire: Any) -> Supervision:
        """Inverse of :meth:`to_wire`.

        Raises:
            InvalidPolicy: the header holds something else.
        """
        if type(wire) is not dict:
            raise InvalidPolicy(HEADER, wire, "an object")
        common = wire.copy()
        run, deadline_at_s = common.pop("run", None), common.pop("deadline_at_s", None)
        if (
            not _COMMON.issuperset(common)
            or (run is not None and type(run) is not dict)
            or (deadline_at_s is not None and type(deadline_at_s) is not float)
        ):
            return cls._read(wire)
        known = cls._read_once(common)
        if run is None and deadline_at_s is None:
            return known
        return known.with_run_and_deadline(None if run is None else dict(run), deadline_at_s)

    def with_run_and_deadline(self, run: Mapping[str, Any] | None, deadline_at_s: float | None) -> Supervision:
        """The same supervision with another run and deadline, which each message has for itself."""
        # Written out: dataclasses.replace() would take as long as reading all of it.
        own = object.__new__(type(self))
        for name, value in zip(self.__slots__, _all_values(self), strict=True):
            object.__setattr__(own, name, value)
        object.__setattr__(own, "run", run)
        object.__setattr__(own, "deadline_at_s", deadline_at_s)
        return own

    @classmethod
    def _read_once(cls, wire: dict[str, Any]) -> Supervision:
        # Most messages of one type have the same header.
        try:
            key = marshal.dumps(wire, _MARSHAL_VERSION)
        except ValueError:
            return cls._read(wire)
        known = _read_before.get(key)
        if known is None:
            known = cls._read(wire)
            if len(key) <= _LONGEST_KEY:
                if len(_read_before) >= _MOST_KEYS:
                    _read_before.clear()
                _read_before[key] = known
        return known

    @classmethod
    def _read(cls, wire: Mapping[str, Any]) -> Supervision:
        try:
            return cls(
                retry=Retry.from_wire(wire["retry"]),
                on_error=OnError(wire["on_error"]),
                agent=str(wire.get("agent", "")),
                message=str(wire.get("message", "")),
                metadata=dict(wire.get("metadata", {})),
                failures=tuple(Failure.from_wire(f) for f in wire.get("failures", ())),
                track=bool(wire.get("track")),
                replay_of=str(wire.get("replay_of", "")),
                timeout_s=_seconds(wire.get("timeout_s")),
                deadline_at_s=_seconds(wire.get("deadline_at_s")),
                idempotency=_idempotency(wire.get("idempotency")),
                dead_letter_expired=None
                if wire.get("dead_letter_expired") is None
                else bool(wire["dead_letter_expired"]),
                hide=hide_in({HEADER: wire}),
                run=None if wire.get("run") is None else dict(wire["run"]),
                ask=wire.get("ask") is True,
                on_death=str(wire.get("on_death", "")),
                conversation=None if wire.get("conversation") is None else dict(wire["conversation"]),
                when_open=str(wire.get("when_open", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidPolicy(HEADER, wire, "what Supervision.to_wire() makes") from error

    def after(self, failure: Failure) -> Supervision:
        """The supervision of the next attempt."""
        return replace(self, failures=(*self.failures, failure)[-_FAILURES_KEPT:])

    @property
    def binding_deadline_at_s(self) -> float | None:
        """The deadline. A replayed dead letter has none: its operator wants it handled, however late."""
        return None if self.replay_of else self.deadline_at_s

    def limit_s(self, now_s: float, override_s: float | None = None) -> float | None:
        """Seconds that an attempt may take if it begins now; 0 or less after the deadline, ``None`` if unlimited.

        ``override_s`` takes the place of the message's timeout.
        """
        timeout_s = self.timeout_s if override_s is None else override_s
        left_s = None if self.binding_deadline_at_s is None else self.binding_deadline_at_s - now_s
        if left_s is None or timeout_s is None:
            return timeout_s if left_s is None else left_s
        return min(timeout_s, left_s)

    def pause_s(self, attempt: int, names: tuple[str, ...], now_s: float, draw: float | None = None) -> Pause:
        """The pause after failed attempt number ``attempt``; see :func:`next_pause_s`."""
        if not self.retry.repeats(names):
            return Pause(None, final=True)
        pause_s = next_pause_s(self.retry, attempt, names, draw)
        left_s = replace(self, timeout_s=None).limit_s(now_s)
        if pause_s is not None and left_s is not None and pause_s >= left_s:
            return Pause(None, out_of_time=True)
        return Pause(pause_s)


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds until the next attempt, or ``None`` when there is none."""

    s: float | None
    #: Whether there is no next attempt only because of the deadline.
    out_of_time: bool = False
    #: Whether there is none because the policy does not retry such an error.
    final: bool = False


_all_values: Final = attrgetter(*Supervision.__slots__)

#: Members of the header that are the same for most messages of a type; a step of a workflow has its own run besides,
#: and a call its own deadline.
_COMMON: Final = frozenset(
    {"retry", "on_error", "agent", "message", "track", "timeout_s", "hide", "ask", "on_death", "when_open"}
)

#: The last version in which equal values have equal bytes, even if parts of them are shared.
_MARSHAL_VERSION: Final = 2

#: Headers read before, by their marshalled bytes, which distinguish ``1`` from ``True``.
_read_before: dict[bytes, Supervision] = {}
_MOST_KEYS: Final = 1000
#: In bytes.
_LONGEST_KEY: Final = 1000


def headers_in(message: object) -> dict[str, Any]:
    """The headers of a message as JSON data; empty if it has none, or is no message."""
    headers = message.get("headers") if isinstance(message, Mapping) else None
    return headers if isinstance(headers, dict) else {}


def header_in(headers: object) -> dict[str, Any] | None:
    """This library's header of a message; ``None`` if plain Celery has sent it, or its headers are malformed."""
    wire = headers.get(HEADER) if isinstance(headers, Mapping) else None
    return wire if isinstance(wire, dict) else None


def supervision_in(headers: object) -> Supervision | None:
    """The supervision of a message; ``None`` if plain Celery has sent it, or its headers are malformed."""
    wire = header_in(headers)
    try:
        return None if wire is None else Supervision.from_wire(wire)
    except InvalidPolicy:
        return None


def is_tracked(headers: object) -> bool:
    """Whether the outcome of a message is recorded, by its headers; not if these are malformed."""
    return bool((header_in(headers) or {}).get("track"))


def hide_in(headers: object) -> tuple[str, ...]:
    """The names of a message's secret fields by its headers; empty if these are malformed."""
    names = (header_in(headers) or {}).get("hide")
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if not is_number(value):
        raise TypeError(value)
    return float(value)


def _idempotency(wire: Any) -> tuple[str, int] | None:
    if wire is None:
        return None
    key, ttl_ms = wire
    return str(key), int(ttl_ms)
