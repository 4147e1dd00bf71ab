"""The fencing token of an attempt: a number that grows from each attempt of a delivery to its next.

It is the place of the message's entry in its stream. Every attempt has an entry of its own, for what is repeated or
taken back is put into the mailbox anew, and Redis numbers entries by its clock and never downwards. Replays of a dead
letter go on from there. After M. Kleppmann, *How to do distributed locking* (2016), "Making the lock safe with
fencing".
"""

from __future__ import annotations

from typing import Any, Final

from orchestrator.transport.celery.own_fields import FENCE, own_field

#: Redis counts entries within a millisecond; so many fit, and the token fits 63 bits until the year 2248.
_PER_MS: Final = 1 << 20


def fence_at(delivery_tag: str) -> int:
    """The token of the attempt that a delivery tag (``ms-number@stream``) stands for; 0 if it is no tag of ours."""
    ms, _, number = delivery_tag.partition("@")[0].partition("-")
    return int(ms) * _PER_MS + int(number) if ms.isdecimal() and number.isdecimal() else 0


def fence_of(request: Any) -> int:
    """The token of the attempt behind a Celery request."""
    return int(own_field(request, FENCE) or 0)
