"""The messages that bring the replies to asks: written with the ask, but for the outcome, which Redis puts in."""

from __future__ import annotations

import json
import secrets
from typing import Any

from celery import Celery

from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.telemetry import tracing
from orchestrator.transport.message_envelope import envelope


class ReplyText:
    """Writes the replies that differ from one in their ids and fields only."""

    def __init__(self, app: Celery, like: OutgoingMessage) -> None:
        trace: dict[str, Any] = {}
        tracing.carry(trace)
        current = app.current_worker_task
        self._id, fields, outcome = (secrets.token_hex(16) for _ in range(3))
        text = envelope(
            task=like.task,
            queue=queue_name(like),
            id=self._id,
            supervision=like.supervision.to_wire(),
            arguments="(Reply,)",
            origin="asks",
            body=f'[[{fields}, "outcome": {outcome}}}],{{}},{{}}]',
            root_id=current and (current.request.root_id or current.request.id),
            parent_id=current and current.request.id,
            more=trace,
        )
        self._head, _, rest = text.partition(fields)
        self._middle, _, self._tail = rest.partition(outcome)

    def parts(self, reply: OutgoingMessage) -> tuple[str, str]:
        """The text of a reply before the outcome, which is JSON within a JSON string, and after it."""
        fields = json.dumps(json.dumps(reply.args[0])[:-1])[1:-1]
        before = f"{self._head}{fields}{self._middle}"
        return before.replace(self._id, reply.id), self._tail.replace(self._id, reply.id)
