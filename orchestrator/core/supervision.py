"""What a supervised send carries in its message's headers, under ``orc``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policy import OnError, Retry

#: The header's name.
HEADER = "orc"

#: Failed attempts remembered in a message; the first ones are forgotten when there are more.
_REMEMBERED = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt."""

    attempt: int
    type: str
    message: str
    traceback: str
    at: str
    by: str

    def to_wire(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "attempt": self.attempt,
            "type": self.type,
            "message": self.message,
            "traceback": self.traceback,
            "at": self.at,
            "by": self.by,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Failure:
        """Inverse of :meth:`to_wire`; what is missing is empty."""
        texts = {name: str(wire.get(name, "")) for name in ("type", "message", "traceback", "at", "by")}
        attempt = wire.get("attempt", 0)
        return cls(attempt=attempt if isinstance(attempt, int) else 0, **texts)


@dataclass(frozen=True, slots=True)
class Supervision:
    """How one message is supervised, and how it has fared so far."""

    retry: Retry = field(default_factory=Retry)
    on_error: OnError = OnError.DEAD_LETTER
    agent: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    track: bool = True
    replay_of: str = ""

    def to_wire(self) -> dict[str, Any]:
        """As plain JSON, without what is empty."""
        wire: dict[str, Any] = {"retry": self.retry.to_wire(), "on_error": self.on_error.value}
        for name in ("agent", "message", "metadata", "track", "replay_of"):
            value = getattr(self, name)
            if value:
                wire[name] = dict(value) if name == "metadata" else value
        if self.failures:
            wire["failures"] = [failure.to_wire() for failure in self.failures]
        return wire

    @classmethod
    def from_wire(cls, wire: Any) -> Supervision:
        """Inverse of :meth:`to_wire`.

        Raises:
            InvalidPolicy: the header holds something else.
        """
        if not isinstance(wire, Mapping):
            raise InvalidPolicy(HEADER, wire, "an object")
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
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidPolicy(HEADER, wire, "what Supervision.to_wire() makes") from error

    def after(self, failure: Failure) -> Supervision:
        """The supervision of the next attempt."""
        return replace(self, failures=(*self.failures, failure)[-_REMEMBERED:])
