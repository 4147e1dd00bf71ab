"""Messages that wait in Redis until they are due."""

from __future__ import annotations

from typing import Any

from orchestrator.core.keys import Keys


def fall_due(redis: Any, keys: Keys, queue: str) -> None:
    """Have all that is scheduled for a mailbox be due now; a worker sees that within a second.

    With a countdown that no delay of the test comes near, what a test does before a message is due is done by then.
    """
    scheduled = keys.delayed(queue)
    redis.zadd(scheduled, dict.fromkeys(redis.zrange(scheduled, 0, -1), 1), xx=True)
