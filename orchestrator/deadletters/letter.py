"""One dead letter, as it is read back from the stream."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.masking import mask
from orchestrator.core.redact import redact
from orchestrator.core.supervision import HEADER, Failure, Supervision


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a message ended here, and the message itself, byte for byte (``raw``)."""

    id: str
    raw: bytes
    queue: str
    reason: str
    error_type: str = ""
    error_message: str = ""
    attempts: int = 0
    at_ms: int = 0
    by: str = ""
    failures: tuple[Failure, ...] = ()
    deaths: tuple[Mapping[str, Any], ...] = ()
    task: str = ""
    delivery_id: str = ""
    agent: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    replay_of: str = ""

    def body(self) -> Any:
        """The message's arguments as JSON data, or ``None`` if they cannot be read."""
        return _body(_envelope(self.raw))

    def shown(self, hidden: tuple[str, ...]) -> dict[str, Any]:
        """Everything about the letter as JSON data, with the named fields redacted, in its texts too."""
        shown = {
            "id": self.id,
            "agent": self.agent,
            "message": self.message,
            "task": self.task,
            "queue": self.queue,
            "delivery_id": self.delivery_id,
            "reason": self.reason,
            "error": {"type": self.error_type, "message": self.error_message},
            "attempts": self.attempts,
            "at_ms": self.at_ms,
            "by": self.by,
            "failures": [f.to_wire() for f in self.failures],
            "deaths": [dict(d) for d in self.deaths],
            "metadata": redact(dict(self.metadata), hidden),
            "replay_of": self.replay_of,
            "body": redact(self.body(), hidden),
            "raw_bytes": len(self.raw),
        }
        masked: dict[str, Any] = mask(shown, hidden)
        return masked


def _envelope(raw: bytes) -> dict[str, Any]:
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


def read_letter(entry_id: str, fields: Mapping[bytes, bytes]) -> DeadLetter:
    """A letter from its stream entry. Never fails: what cannot be read is left empty."""
    raw = fields.get(b"m", b"")
    written: dict[str, Any] = _json(fields.get(b"letter", b""), {})
    deaths: list[Any] = _json(fields.get(b"d", b""), [])
    headers = _object(_envelope(raw), "headers")
    try:
        supervision = Supervision.from_wire(headers[HEADER])
    except (KeyError, InvalidPolicy):
        supervision = Supervision()
    error = _object(written, "error")
    failures = written.get("failures")
    return DeadLetter(
        id=entry_id,
        raw=raw,
        queue=str(written.get("queue", "")),
        reason=str(written.get("reason", "")),
        error_type=str(error.get("type", "")),
        error_message=str(error.get("message", "")),
        attempts=_whole(written.get("attempts")),
        at_ms=_whole(written.get("at")) or _whole(entry_id.split("-")[0]),
        by=str(written.get("by", "")),
        failures=_failures(failures) if isinstance(failures, list) else supervision.failures,
        deaths=tuple(d for d in deaths if isinstance(d, dict)),
        task=str(headers.get("task", "")),
        delivery_id=str(headers.get("id", "")),
        agent=supervision.agent,
        message=supervision.message,
        metadata=supervision.metadata,
        replay_of=supervision.replay_of,
    )


def _failures(wires: list[Any]) -> tuple[Failure, ...]:
    return tuple(Failure.from_wire(wire) for wire in wires if isinstance(wire, dict))


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def renewed(letter: DeadLetter) -> bytes:
    """The message as it is sent again: a first attempt, which says which letter it comes from."""
    envelope = _envelope(letter.raw)
    headers = _object(envelope, "headers")
    if not headers:
        return letter.raw
    headers = {**headers, "retries": 0, "eta": None, "expires": None, "redelivered": False}
    if isinstance(headers.get(HEADER), dict):
        supervision = {k: v for k, v in headers[HEADER].items() if k != "failures"}
        headers[HEADER] = {**supervision, "replay_of": letter.id}
    envelope["headers"] = headers
    return json.dumps(envelope).encode()
