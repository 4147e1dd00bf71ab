"""Inboxes: the outcomes of asks whose asker waits for several of them, in the order in which they were recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import RedisError

from orchestrator.core.ask import TIMEOUT
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.outcome import Outcome, from_wire
from orchestrator.transport.redis.patience import SLICE_S, outlast
from orchestrator.transport.store import Store


class Inbox(Protocol):
    """What an asker waits for."""

    def read(self, until: float) -> list[tuple[str, Outcome | None]]:
        """The next outcomes, each with the label of its ask; waits for the first until then, by the monotonic clock.

        ``None`` stands for a time-out that a sweep has noticed before the asker.

        Raises:
            BrokerUnavailable: Redis did not answer at the end, or refused for good.
        """


class RedisInbox:
    """A stream, which expires. Reading leaves it as it is, so no outcome is lost with a connection."""

    def __init__(self, open_store: Callable[[], Store], id: str) -> None:
        self._open_store = open_store
        self._id = id
        self._last: bytes | str = "0"

    def read(self, until: float) -> list[tuple[str, Outcome | None]]:
        """See :class:`Inbox`."""
        store = outlast(until, self._open_store)
        key = store.keys.inbox(self._id)
        while True:
            left_s = until - monotonic()
            try:
                found: Any = outlast(until, lambda: store.client.xread({key: self._last}, block=_block_ms(until)))
            except RedisError as error:
                raise BrokerUnavailable(store.url, error) from error
            if found:
                entries = found[0][1] if isinstance(found, list) else found[key.encode()][0]
                self._last = entries[-1][0]
                return [(fields[b"l"].decode(), _outcome(fields[b"o"])) for _, fields in entries]
            if left_s <= 0:
                return []


def _block_ms(until: float) -> int:
    return max(1, round(1000 * min(until - monotonic(), SLICE_S)))


def _outcome(raw: bytes) -> Outcome | None:
    wire = json.loads(raw)
    return None if wire.get("outcome") == TIMEOUT else from_wire(wire)
