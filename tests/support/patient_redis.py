"""A client of Redis for state machines."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def patient_redis(url: str) -> Any:
    """A client that waits for each answer for as long as it takes, and sends nothing twice.

    A client as it is by default gives up after five seconds. On a busy machine that happens to a state machine once,
    and not when Hypothesis replays the same steps: it then says that the data was drawn in another way
    (``FlakyStrategyDefinition``), and hides the error.
    """
    # Of its answers, which redis-py types as "bytes or str or an awaitable", the machines know what they are.
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0))
