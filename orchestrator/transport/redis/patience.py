"""Waiting for something in Redis until a time has passed, over as many broken connections as there may be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TypeVar

from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.redis.refusals import is_full, is_passing

#: Longest single wait in Redis; shorter than the client's socket timeout. After each, a wait for an outcome looks
#: whether a worker has died and nobody sweeps.
SLICE_S: Final = 1.0

#: Between two attempts while Redis does not answer: from, to.
_PAUSE_S: Final = (0.05, 1.0)

#: Between two looks at a server that answers but refuses to block (a full disk or memory, too few replicas).
_LOOK_S: Final = 0.2

#: How long the attempt of a step waits for Redis, before it fails though it is not its handler's fault.
OUTAGE_S: Final = 30.0

Answer = TypeVar("Answer")


def outlast(until: float, ask: Callable[[], Answer]) -> Answer:
    """Ask Redis; if it cannot be reached, again and again until ``until`` by the monotonic clock.

    Raises:
        BrokerUnavailable: it could not be reached at the end, or refused for good.
        redis.exceptions.RedisError: likewise, if that is what ``ask`` raises.
    """
    pause_s, longest_s = _PAUSE_S
    pause: threading.Event | None = None
    while True:
        try:
            return ask()
        except (BrokerUnavailable, RedisError, OSError) as error:
            left_s = until - monotonic()
            if left_s <= 0 or not _may_pass(error):
                raise
        pause = pause or threading.Event()
        pause.wait(min(pause_s, left_s))
        pause_s = min(2 * pause_s, longest_s)


def _may_pass(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, BrokerUnavailable) else error
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return False
    if isinstance(cause, ResponseError):
        return is_passing(cause)
    # kombu's OperationalError is what opening a store may end with.
    return not isinstance(cause, RedisError) or isinstance(cause, RedisConnectionError | RedisTimeout)


def sleep_on(client: Any, key: str, until: float) -> Any:
    """The last element of a list that has one only once something has happened; ``None`` after at most a second.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    slice_s = max(0.01, min(until - monotonic(), SLICE_S))
    try:
        return client.blmove(key, key, slice_s, "LEFT", "LEFT")
    except ResponseError as error:
        # To move within the list counts as a write.
        if not is_full(error) and not is_passing(error):
            raise
        threading.Event().wait(min(slice_s, _LOOK_S))
        return client.lindex(key, 0)
