"""A message and why it died, as a row of the log. ``dead_letters.lua`` makes the same row of the same message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.core.deliveries.supervision import Supervision, headers_in, supervision_in
from orchestrator.deadletters.letter import (
    FIELD_AGENT,
    FIELD_DEATHS,
    FIELD_ERROR,
    FIELD_GROUP,
    FIELD_LETTER,
    FIELD_LINEAGE,
    FIELD_MESSAGE,
    FIELD_NAME,
    FIELD_QUEUE,
    FIELD_REASON,
    FIELD_SENT_MS,
    envelope_of,
)
from orchestrator.transport.letter_draft import error_type, group_of
from orchestrator.transport.mailbox_entry import LINEAGE


def letter_row(raw: bytes, letter: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The fields of a message that died; ``letter`` are those of a ``LetterDraft``."""
    headers = headers_in(envelope_of(raw))
    supervision = supervision_in(headers) or Supervision()
    name = supervision.message or str(headers.get("task", ""))
    lineage = headers.get(LINEAGE)
    return {
        FIELD_MESSAGE: raw,
        FIELD_LETTER: json.dumps(dict(letter)).encode(),
        FIELD_DEATHS: b"",
        FIELD_QUEUE: str(letter.get("queue", "")).encode(),
        FIELD_AGENT: supervision.agent.encode(),
        FIELD_NAME: name.encode(),
        FIELD_ERROR: error_type(letter).encode(),
        FIELD_REASON: str(letter.get("reason", "")).encode(),
        FIELD_GROUP: group_of(letter, f"{supervision.agent}.{name}").encode(),
        FIELD_LINEAGE: json.dumps(lineage).encode() if isinstance(lineage, dict) and lineage else b"",
        FIELD_SENT_MS: str(letter.get("at", 0)).encode(),
    }


def audit_id_of(row: Mapping[bytes, bytes]) -> str:
    """The audit entry of the replay after which a message died; empty if it was not replayed."""
    lineage = json.loads(row[FIELD_LINEAGE] or b"{}")
    return str(lineage.get("audit", ""))
