"""The changes of a replay: pure rules. ``dead_letters.lua`` and ``schedule_letters.lua`` have the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.deadletters.letter import envelope_of
from orchestrator.transport.mailbox_entry import renewed


def lineage_after(letter_id: str, previous: bytes, audit_id: str, *, auto: bool) -> dict[str, Any]:
    """The lineage of a letter's message after its replay; ``previous`` is the letter's own, as JSON or empty."""
    lineage = json.loads(previous or b"{}")
    return {
        "of": letter_id,
        "first": lineage.get("first") or letter_id,
        "replays": int(lineage.get("replays", 0)) + 1,
        "auto": int(lineage.get("auto", 0)) + auto,
        "audit": audit_id,
    }


def replayed_message(raw: bytes, lineage: Mapping[str, Any]) -> bytes:
    """A letter's message as a first attempt with this lineage; unchanged if it has no headers."""
    envelope = envelope_of(raw)
    headers = envelope.get("headers")
    if not isinstance(headers, dict):
        return raw
    envelope["headers"] = renewed(headers, lineage)
    return json.dumps(envelope).encode()


def auto_replays(lineage: bytes) -> int:
    """The number of automatic replays of a letter's message."""
    return int(json.loads(lineage or b"{}").get("auto", 0))


def replay_due_ms(arrived_ms: int, first_ms: int, auto: int) -> int:
    """The due time of the next automatic replay: ``first_ms`` after the arrival, doubled for each earlier replay."""
    return int(arrived_ms + first_ms * 2**auto)
