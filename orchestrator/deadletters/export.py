"""A letter as a line of JSON, which is read back byte for byte."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import InvalidExport
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.deadletters.letter import (
    FIELD_AGENT,
    FIELD_DEATHS,
    FIELD_ERROR,
    FIELD_GROUP,
    FIELD_LETTER,
    FIELD_LINEAGE,
    FIELD_MESSAGE,
    FIELD_NAME,
    FIELD_ORIGIN,
    FIELD_QUEUE,
    FIELD_REASON,
    FIELD_SENT_MS,
)
from orchestrator.deadletters.store import Row

#: Names in a line -> fields of the row.
_NAMES = {
    "message": FIELD_MESSAGE,
    "letter": FIELD_LETTER,
    "deaths": FIELD_DEATHS,
    "queue": FIELD_QUEUE,
    "agent": FIELD_AGENT,
    "name": FIELD_NAME,
    "error": FIELD_ERROR,
    "reason": FIELD_REASON,
    "group": FIELD_GROUP,
    "lineage": FIELD_LINEAGE,
    "sent_ms": FIELD_SENT_MS,
}

_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,10}")


def write_line(row: Row) -> str:
    """One letter. Its id is that of the log where it first died, after any number of exports and imports."""
    letter_id, fields, note = row
    line: dict[str, Any] = {"id": fields.get(FIELD_ORIGIN, b"").decode() or letter_id}
    for name, field in _NAMES.items():
        line[name] = _text(fields.get(field, b""))
    if note:
        line["parked"] = _text(note)
    return json.dumps(line, separators=(",", ":"))


def _text(raw: bytes) -> Any:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def read_line(number: int, text: str | bytes) -> Row:
    """Inverse of :func:`write_line`.

    Raises:
        InvalidExport: the text is not such a line; names the line and the reason.
    """
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidExport(number, f"not JSON: {error}") from None
    if not isinstance(line, dict):
        raise InvalidExport(number, f"not an object but {type(line).__name__}")
    if unknown := sorted(set(line) - {*_NAMES, "id", "parked"}):
        raise InvalidExport(number, f"unknown: {', '.join(unknown)}")
    letter_id = line.get("id")
    if not isinstance(letter_id, str) or not _ID.fullmatch(letter_id):
        raise InvalidExport(number, f"id={masked_repr(letter_id)} is no dead letter's")
    fields = {field: _bytes(number, name, line) for name, field in _NAMES.items()}
    written = _json(fields[FIELD_LETTER])
    if not isinstance(written, Mapping) or not isinstance(written.get("reason"), str):
        raise InvalidExport(number, "letter: not an object with a reason")
    if fields[FIELD_LINEAGE] and not isinstance(_json(fields[FIELD_LINEAGE]), Mapping):
        raise InvalidExport(number, "lineage: not an object")
    note = _bytes(number, "parked", line) if "parked" in line else b""
    if note and not isinstance(_json(note), Mapping):
        raise InvalidExport(number, "parked: not an object")
    fields[FIELD_ORIGIN] = letter_id.encode()
    return letter_id, fields, note


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _bytes(number: int, name: str, line: Mapping[str, Any]) -> bytes:
    value = line.get(name)
    try:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, Mapping) and set(value) == {"base64"}:
            return base64.b64decode(value["base64"], validate=True)
    except (ValueError, TypeError, binascii.Error):
        pass
    raise InvalidExport(number, f"{name}: neither a text nor base64")
