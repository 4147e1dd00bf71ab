"""Has the witness see which incarnation claims a message of the load, and whether it has to run alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from chaos.witness import witness
from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.transport.claim_buffer import Buffered
from orchestrator.transport.claim_intake import ClaimIntake


def id_of(message: bytes, metadata_key: str) -> str:
    """The id by which the witness knows a message."""
    headers: Mapping[str, Any] = json.loads(message)["headers"]
    metadata = (headers.get(HEADER) or {}).get("metadata") or {}
    return str(metadata.get(metadata_key) or headers["id"])


def watch_claims(queues: Collection[str], metadata_key: str) -> None:
    """Write a row for each message of these mailboxes that this process claims."""
    record = ClaimIntake.record

    def watched(self: ClaimIntake, claimed: list[Buffered]) -> None:
        record(self, claimed)
        incarnation = self.channel.incarnation
        for claim, raw in claimed:
            if claim.queue in queues:
                node = incarnation.partition(":")[0]
                where: dict[str, Any] = {"node": node, "incarnation": incarnation, "alone": claim.last_chance}
                witness().write("claimed", id_of(raw, metadata_key), **where)

    setattr(ClaimIntake, "record", watched)  # noqa: B010
