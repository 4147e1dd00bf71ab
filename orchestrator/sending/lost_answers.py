"""Commands whose answers were lost: repeated, they give the first answer, and do nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.admission.publish_dedup import Unanswered
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.store import Store

T = TypeVar("T")


class LostAnswers:
    """Repeats a command once; and if its caller repeats it next, in the same thread, it has the same token again."""

    def __init__(self) -> None:
        self._unanswered = Unanswered()

    def run(self, store: Store, said: Hashable, command: Callable[[Attempt], T]) -> T:
        """Run a command that says ``said``.

        Raises:
            BrokerUnavailable: Redis is away, or refused.
        """
        attempt = self._unanswered.attempt(said, store.keys, "")
        try:
            return again_if_lost(lambda: command(attempt))
        except BrokerUnavailable:
            self._unanswered.lost(said, attempt)
            raise


def again_if_lost(ask: Callable[[], T]) -> T:
    """Ask, and ask once more if the connection broke.

    Raises:
        BrokerUnavailable: Redis is away, or refused.
    """
    try:
        return ask()
    except BrokerUnavailable as error:
        if not isinstance(error.__cause__, RedisConnectionError | RedisTimeout):
            raise
    return ask()
