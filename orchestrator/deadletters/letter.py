"""One dead letter, as it is read from the log."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.deliveries.supervision import (
    Failure,
    Supervision,
    header_in,
    headers_in,
    hide_in,
    supervision_in,
)
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.secrets.masking import mask
from orchestrator.core.secrets.redact import USUAL, redact

# Fields of a letter; one-letter names save real bytes in Redis. ``dead_letters.lua`` describes them.
FIELD_MESSAGE = b"m"
FIELD_LETTER = b"letter"
FIELD_DEATHS = b"d"
FIELD_QUEUE = b"q"
FIELD_AGENT = b"a"
FIELD_NAME = b"n"
FIELD_ERROR = b"e"
FIELD_REASON = b"y"
FIELD_GROUP = b"g"
FIELD_LINEAGE = b"r"
FIELD_SENT_MS = b"s"
#: The id where the letter first died, if it was imported.
FIELD_ORIGIN = b"o"
FIELD_KIND = b"k"

#: The dimensions that letters are indexed by -> the field of each.
DIMENSIONS = {
    "agent": FIELD_AGENT,
    "message": FIELD_NAME,
    "error": FIELD_ERROR,
    "reason": FIELD_REASON,
    "group": FIELD_GROUP,
}


@dataclass(frozen=True, slots=True)
class Lineage:
    """The history of a replayed message."""

    #: The letter that was replayed, and the first letter of the line.
    of: str = ""
    first: str = ""
    #: Number of replays of the line, and of automatic ones among them.
    replays: int = 0
    auto: int = 0
    #: The audit entry of the last replay.
    audit_id: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message (``raw``, byte for byte) and why it died. Times are in ms since 1970."""

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
    #: The letter that the message was replayed from.
    replay_of: str = ""
    #: The last incarnation that held it.
    incarnation: str = ""
    #: When it was accepted by its mailbox (after a replay: by that one), and when it became a letter.
    sent_ms: int = 0
    dead_lettered_ms: int = 0
    lineage: Lineage = Lineage()
    #: Fingerprint: letters with the same failure share it (see :mod:`orchestrator.core.deliveries.fingerprint`).
    group: str = ""
    #: Why, by whom and since when it is parked; empty if open.
    note: Mapping[str, Any] = field(default_factory=dict)
    #: Names of the message's secret fields, as declared by its sender.
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
        """The time of its first failed attempt, by that worker's clock; empty if no attempt is known."""
        return self.failures[0].at if self.failures else ""

    def record(self) -> dict[str, Any]:
        """The recorded outcome of the delivery that ended as this letter, as JSON data."""
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
        """The letter's value of a dimension."""
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
        """Names of the fields that are not shown: these, and the letter's own secrets."""
        return (*names, *self.hide)

    def shown(self, hidden: tuple[str, ...] = USUAL) -> dict[str, Any]:
        """The letter as JSON data. Its secret fields and those named in ``hidden`` are masked, in texts too.

        By default ``hidden`` is what the setting ``redact`` is by default; if you changed the setting, pass
        ``orchestrator.settings.redact``.
        """
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
            "dead_lettered_ms": self.dead_lettered_ms,
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
    """A message as JSON data; empty if it cannot be read."""
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
    """The id of the delivery that a message is; empty if the message is not supervised."""
    headers = headers_in(envelope_of(raw))
    return "" if header_in(headers) is None else str(headers.get("id", ""))


def read_letter(entry_id: str, fields: Mapping[bytes, bytes], note: bytes = b"") -> DeadLetter:
    """A letter from its row. Never fails: unreadable fields are left empty."""
    raw = fields.get(FIELD_MESSAGE, b"")
    written: dict[str, Any] = _json(fields.get(FIELD_LETTER, b""), {})
    deaths: list[Any] = _json(fields.get(FIELD_DEATHS, b""), [])
    headers = headers_in(envelope_of(raw))
    supervision = supervision_in(headers) or Supervision()
    error = _object(written, "error")
    failures = written.get("failures")
    lineage: dict[str, Any] = _json(fields.get(FIELD_LINEAGE, b""), {})
    dead_lettered_ms = _whole(entry_id.split("-")[0])
    return DeadLetter(
        id=entry_id,
        raw=raw,
        queue=str(written.get("queue", "")),
        reason=str(written.get("reason", "")),
        error_type=str(error.get("type", "")),
        error_message=str(error.get("message", "")),
        attempts=_whole(written.get("attempts")),
        at_ms=_whole(written.get("at")) or dead_lettered_ms,
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
        sent_ms=_whole(fields.get(FIELD_SENT_MS)),
        dead_lettered_ms=dead_lettered_ms,
        lineage=Lineage(
            of=str(lineage.get("of", "")),
            first=str(lineage.get("first", "")),
            replays=_whole(lineage.get("replays")),
            auto=_whole(lineage.get("auto")),
            audit_id=str(lineage.get("audit", "")),
        ),
        group=fields.get(FIELD_GROUP, b"").decode("utf-8", "replace"),
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
