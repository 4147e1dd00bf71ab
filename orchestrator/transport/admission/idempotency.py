"""Idempotency keys on the wire: a message that carries one in its header is accepted by a script of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.keys import DOORBELL, Keys
from orchestrator.core.supervision import HEADER

#: Script, keys, arguments.
Call = tuple[str, list[str], list[Any]]

#: A key is remembered at least this long while its delivery has no outcome yet; in ms.
_PENDING_MS: Final = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a message's header says: under this key, for this recipient, only one is accepted."""

    agent: str
    task: str
    key: str
    ttl_ms: int
    delivery_id: str

    def call(
        self, keys: Keys, queue: str, step: str, message: Mapping[str, Any], body: str | bytes, delay_ms: int
    ) -> Call:
        """The script call that accepts the message."""
        return (
            "accept",
            [
                keys.step(queue, step),
                keys.ledger(queue),
                keys.idempotency(self.agent, self.task, self.key),
                keys.outcome_hooks(self.delivery_id),
                keys.delayed(queue),
                keys.delayed_bodies(queue),
                keys.step(queue, DOORBELL),
            ],
            [
                body,
                max(0, delay_ms),
                f"{step}|{message['properties']['delivery_tag']}",
                self.delivery_id,
                self.ttl_ms,
                _PENDING_MS + max(0, delay_ms),
            ],
        )


def idempotency_key_of(message: Mapping[str, Any]) -> IdempotencyKey | None:
    """The idempotency key a message carries, if it does."""
    headers = message.get("headers")
    # Celery's own retry publishes the same delivery anew, which is no second send.
    if not isinstance(headers, dict) or headers.get("retries"):
        return None
    supervision = headers.get(HEADER)
    if not isinstance(supervision, dict) or "idempotency" not in supervision:
        return None
    key, ttl_ms = supervision["idempotency"]
    agent = str(supervision.get("agent") or "")
    return IdempotencyKey(agent, str(headers.get("task")), str(key), int(ttl_ms), str(headers.get("id")))
