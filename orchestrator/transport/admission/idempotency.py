"""Idempotency keys on the wire: a message that carries one in its header is accepted by a script of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.deliveries.supervision import header_in, headers_in
from orchestrator.core.keys import Keys
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Attempt, Call

#: A key is remembered at least this long while its delivery has no outcome yet; in ms.
_PENDING_MS: Final = 30 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A message's header: under this key, only one message for this recipient is accepted."""

    agent: str
    task: str
    key: str
    ttl_ms: int
    delivery_id: str

    def call(
        self,
        keys: Keys,
        queue: str,
        level: str,
        message: Mapping[str, Any],
        body: str | bytes,
        delay_ms: int,
        attempt: Attempt | None = None,
    ) -> Call:
        """The script call that accepts the message."""
        return commands.accept(
            keys,
            queue,
            level,
            body,
            idempotency_key=keys.idempotency(self.agent, self.task, self.key),
            delivery=self.delivery_id,
            member=f"{level}|{message['properties']['delivery_tag']}",
            ttl_ms=self.ttl_ms,
            pending_ms=_PENDING_MS + max(0, delay_ms),
            delay_ms=max(0, delay_ms),
            attempt=attempt,
        )


def idempotency_key_of(message: Mapping[str, Any]) -> IdempotencyKey | None:
    """The idempotency key a message carries, if it does."""
    headers = headers_in(message)
    # Celery's own retry publishes the same delivery anew, which is no second send.
    if headers.get("retries"):
        return None
    supervision = header_in(headers)
    if supervision is None or "idempotency" not in supervision:
        return None
    key, ttl_ms = supervision["idempotency"]
    agent = str(supervision.get("agent") or "")
    return IdempotencyKey(agent, str(headers.get("task")), str(key), int(ttl_ms), str(headers.get("id")))
