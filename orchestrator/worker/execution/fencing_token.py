"""The fencing token of an attempt: a number that grows from each attempt of a delivery to its next.

It is made of the id of the message's entry in its stream. Every attempt has its own entry, because a retried or
requeued message is added to the mailbox again, and Redis' ids only grow. Replays of a dead letter continue with
them. After M. Kleppmann, *How to do distributed locking* (2016), "Making the lock safe with fencing".
"""

from __future__ import annotations

from typing import Any, Final

from orchestrator.transport.celery.own_fields import FENCE, own_field

#: Entries within one millisecond that have different tokens; a token fits 63 bits until the year 2248.
_PER_MS: Final = 1 << 20


def fence_at(delivery_tag: str) -> int:
    """The token of the attempt with this delivery tag (``ms-number@stream``); 0 if the tag has another form."""
    ms, _, number = delivery_tag.partition("@")[0].partition("-")
    return int(ms) * _PER_MS + int(number) if ms.isdecimal() and number.isdecimal() else 0


def fence_of(request: Any) -> int:
    """The token of the attempt behind a Celery request."""
    return int(own_field(request, FENCE) or 0)
