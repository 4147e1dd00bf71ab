"""Whether an attempt of a workflow's step begins after its run was cancelled."""

from __future__ import annotations

from typing import Final

from orchestrator.celery_types import Message
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.transport.celery.held_request import channel_of

#: By what a step is cancelled whose run was.
BY_RUN: Final = "its run was cancelled"


def is_cancelled(message: Message, supervision: Supervision | None) -> bool:
    """Whether the message is a step whose run was cancelled while a worker held it, or between two attempts.

    A first attempt is known to be cancelled after the next heartbeat; a later one at once.
    """
    channel = channel_of(message)
    if supervision is None or supervision.run is None or channel is None:
        return False
    headers = message.headers
    is_new = not headers.get("retries") and not message.delivery_info.get("redelivered")
    return channel.settler.is_cancelled(str(headers["id"]), is_new=is_new)
