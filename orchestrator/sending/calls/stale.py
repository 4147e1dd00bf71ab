"""Replies that are kept for calls that may fall back to a stale one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.log import get_logger
from orchestrator.core.message import Message, encode
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: Equal requests of which eager mode keeps the reply, at most.
_MOST = 1000


class StaleReplies(Protocol):
    """Keeps the last reply to each request. It is a cache: losing it loses a fallback."""

    def remember(self, key: str, result: Any, max_age_ms: int) -> None:
        """Keep a reply for this time, or longer if another caller allows an older one."""

    def recall(self, key: str, max_age_ms: int) -> tuple[Any] | None:
        """The last reply, in a tuple; ``None`` if there is none that is not older."""


def stale_key(recipient: Any, message: Message) -> str:
    """The key of a request, the same for equal requests; a digest, because fields may be secret."""
    agent = getattr(recipient, "name", recipient)
    text = json.dumps([agent, type(message).__name__, encode(message)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class RedisStaleReplies:
    """In Redis, for all callers. Ages are by Redis' clock."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    def remember(self, key: str, result: Any, max_age_ms: int) -> None:
        """See :class:`StaleReplies`."""
        try:
            store = self._open_store()
            store.run(*commands.keep_reply(store.keys, key, max_age_ms, json.dumps(result)))
        except (BrokerUnavailable, RedisError, TypeError, ValueError) as error:
            # The caller has its reply.
            logger.debug("reply not kept for later fallbacks: %s", error)

    def recall(self, key: str, max_age_ms: int) -> tuple[Any] | None:
        """See :class:`StaleReplies`."""
        try:
            store = self._open_store()
            name = store.keys.stale_reply(key)
            raw: Any = store.client.get(name)
            left_ms: Any = store.client.pttl(name)
        except (BrokerUnavailable, RedisError) as error:
            logger.debug("no stale reply: %s", error)
            return None
        if raw is None or left_ms < 0:
            return None

        def read() -> tuple[Any] | None:
            kept_ms, _, text = raw.partition(b" ")
            return (json.loads(text),) if int(kept_ms) - left_ms <= max_age_ms else None

        return store.read_or_skip(name, read)


class InMemoryStaleReplies:
    """In this process."""

    def __init__(self) -> None:
        self._replies: dict[str, tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def remember(self, key: str, result: Any, max_age_ms: int) -> None:
        """See :class:`StaleReplies`."""
        with self._lock:
            if len(self._replies) >= _MOST:
                self._replies.clear()
            self._replies[key] = monotonic(), result

    def recall(self, key: str, max_age_ms: int) -> tuple[Any] | None:
        """See :class:`StaleReplies`."""
        known = self._replies.get(key)
        return None if known is None or (monotonic() - known[0]) * 1000 > max_age_ms else (known[1],)
