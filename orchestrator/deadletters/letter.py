"""One dead letter, as it is read back from the log."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.masked_repr import masked_repr
from orchestrator.core.masking import mask
from orchestrator.core.redact import redact
from orchestrator.core.supervision import HEADER, Failure, Supervision, hide_in

#: What is known of each dimension that letters are indexed by: its field in the log's entries.
DIMENSIONS = {"agent": b"a", "message": b"n", "error": b"e", "reason": b"y", "group": b"g"}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a replayed message comes from."""

    #: The letter that was sent again, and the one that the line began with.
    of: str = ""
    first: str = ""
    #: How often the line was sent again; how often of that automatically.
    replays: int = 0
    auto: int = 0
    #: The act that sent it again.
    act: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a message ended here, and the message itself, byte for byte (``raw``). Times are in ms since 1970."""

    id: str
    raw: bytes
    queue: str
    reason: str
    error_type: str = ""
    error_message: str = ""
    attempts: int = 0
    #: When its last attempt ended, by the worker's clock.
    at_ms: int = 0
    by: str = ""
    failures: tuple[Failure, ...] = ()
    deaths: tuple[Mapping[str, Any], ...] = ()
    task: str = ""
    delivery_id: str = ""
    agent: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: The letter that it was sent again from.
    replay_of: str = ""
    #: The incarnation that had it last.
    incarnation: str = ""
    #: When it first lay in its mailbox (after a replay: since that), and when the log took it.
    sent_ms: int = 0
    buried_ms: int = 0
    lineage: Lineage = Lineage()
    #: Fingerprint: letters that died of the same share it (see :mod:`orchestrator.core.fingerprint`).
    group: str = ""
    #: Why, by whom and since when it is parked; empty if it is open.
    note: Mapping[str, Any] = field(default_factory=dict)
    #: Names of the message's secret fields, as its sender knew them.
    hide: tuple[str, ...] = ()

    def __repr__(self) -> str:
        what = ".".join(name for name in (self.agent, self.message or self.task) if name) or self.queue
        why = masked_repr(f"{self.error_type}: {self.error_message}" if self.error_type else "", self.hide)
        error = f", error={why}" if self.error_type else ""
        return f"<DeadLetter {self.id} of {what}: {self.reason}{error}, attempts={self.attempts}>"

    @property
    def state(self) -> str:
        """``parked`` or ``open``."""
        return "parked" if self.note else "open"

    @property
    def first_seen(self) -> str:
        """When its first attempt failed, as that worker's clock had it; empty if no attempt is known."""
        return self.failures[0].at if self.failures else ""

    def record(self) -> dict[str, Any]:
        """What is recorded of the outcome of a delivery that ended as this letter, as JSON data."""
        return {
            "outcome": "dead",
            "reason": self.reason,
            "error": f"{self.error_type}: {self.error_message}" if self.error_type else self.error_message,
            "attempts": self.attempts,
            "letter_id": self.id,
            "agent": self.agent,
            "message": self.message or self.task,
            "queue": self.queue,
            "failures": [failure.to_wire() for failure in self.failures],
            "deaths": [dict(death) for death in self.deaths],
        }

    def dimension(self, name: str) -> str:
        """The value that the letter is indexed by."""
        match name:
            case "agent":
                return self.agent
            case "message":
                return self.message or self.task
            case "error":
                return self.error_type
            case "reason":
                return self.reason
            case _:
                return self.group

    def body(self) -> Any:
        """The message's arguments as JSON data, or ``None`` if they cannot be read."""
        return _body(envelope_of(self.raw))

    def hidden(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """What is not shown of it: the fields of these names, and its own secrets."""
        return (*names, *self.hide)

    def shown(self, hidden: tuple[str, ...]) -> dict[str, Any]:
        """Everything about the letter as JSON data, without its secrets and the named fields, in its texts too."""
        hidden = self.hidden(hidden)
        shown = {
            "id": self.id,
            "state": self.state,
            "agent": self.agent,
            "message": self.message,
            "task": self.task,
            "queue": self.queue,
            "delivery_id": self.delivery_id,
            "reason": self.reason,
            "error": {"type": self.error_type, "message": self.error_message},
            "group": self.group,
            "attempts": self.attempts,
            "sent_ms": self.sent_ms,
            "first_seen": self.first_seen,
            "at_ms": self.at_ms,
            "buried_ms": self.buried_ms,
            "by": self.by,
            "incarnation": self.incarnation,
            "failures": [f.to_wire() for f in self.failures],
            "deaths": [dict(d) for d in self.deaths],
            "metadata": redact(dict(self.metadata), hidden),
            "replay_of": self.replay_of,
            "lineage": {"first": self.lineage.first, "replays": self.lineage.replays, "auto": self.lineage.auto},
            "note": dict(self.note),
            "body": redact(self.body(), hidden),
            "raw_bytes": len(self.raw),
        }
        masked: dict[str, Any] = mask(shown, hidden)
        return masked


def envelope_of(raw: bytes) -> dict[str, Any]:
    """A message as JSON data; empty if it is none."""
    try:
        loaded = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _object(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _body(envelope: Mapping[str, Any]) -> Any:
    body = envelope.get("body")
    if not isinstance(body, str):
        return None
    try:
        if _object(envelope, "properties").get("body_encoding") == "base64":
            body = base64.b64decode(body, validate=True).decode()
        loaded = json.loads(body)
    except (ValueError, binascii.Error, RecursionError):
        return None
    # Celery's protocol 2: [args, kwargs, canvas]
    return loaded[:2] if isinstance(loaded, list) else loaded


def _json(raw: bytes, empty: Any) -> Any:
    try:
        loaded = json.loads(raw) if raw else empty
    except (ValueError, RecursionError):
        return empty
    return loaded if isinstance(loaded, type(empty)) else empty


def delivery_of(raw: bytes) -> str:
    """The id of the delivery that a message is; empty if it is supervised by nobody."""
    headers = _object(envelope_of(raw), "headers")
    return str(headers.get("id", "")) if isinstance(headers.get(HEADER), dict) else ""


def supervision_in(headers: Mapping[str, Any]) -> Supervision:
    """How a message was supervised; the defaults if its headers do not say."""
    try:
        return Supervision.from_wire(headers[HEADER])
    except (KeyError, InvalidPolicy):
        return Supervision()


def read_letter(entry_id: str, fields: Mapping[bytes, bytes], note: bytes = b"") -> DeadLetter:
    """A letter from its entry. Never fails: what cannot be read is left empty."""
    raw = fields.get(b"m", b"")
    written: dict[str, Any] = _json(fields.get(b"letter", b""), {})
    deaths: list[Any] = _json(fields.get(b"d", b""), [])
    headers = _object(envelope_of(raw), "headers")
    supervision = supervision_in(headers)
    error = _object(written, "error")
    failures = written.get("failures")
    lineage: dict[str, Any] = _json(fields.get(b"r", b""), {})
    buried_ms = _whole(entry_id.split("-")[0])
    return DeadLetter(
        id=entry_id,
        raw=raw,
        queue=str(written.get("queue", "")),
        reason=str(written.get("reason", "")),
        error_type=str(error.get("type", "")),
        error_message=str(error.get("message", "")),
        attempts=_whole(written.get("attempts")),
        at_ms=_whole(written.get("at")) or buried_ms,
        by=str(written.get("by", "")),
        failures=_failures(failures) if isinstance(failures, list) else supervision.failures,
        deaths=tuple(d for d in deaths if isinstance(d, dict)),
        task=str(headers.get("task", "")),
        delivery_id=str(headers.get("id", "")),
        agent=supervision.agent,
        message=supervision.message,
        metadata=supervision.metadata,
        replay_of=str(lineage.get("of") or supervision.replay_of),
        incarnation=str(written.get("incarnation", "")),
        sent_ms=_whole(fields.get(b"s")),
        buried_ms=buried_ms,
        lineage=Lineage(
            of=str(lineage.get("of", "")),
            first=str(lineage.get("first", "")),
            replays=_whole(lineage.get("replays")),
            auto=_whole(lineage.get("auto")),
            act=str(lineage.get("act", "")),
        ),
        group=fields.get(b"g", b"").decode("utf-8", "replace"),
        note=_json(note, {}),
        hide=hide_in(headers),
    )


def _failures(wires: list[Any]) -> tuple[Failure, ...]:
    return tuple(Failure.from_wire(wire) for wire in wires if isinstance(wire, dict))


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
