"""Inboxes: the outcomes of asks whose asker waits for several of them, in the order in which they were recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from orchestrator.core.calls.ask import TIMEOUT
from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.outcome import Outcome, from_wire
from orchestrator.core.stored_values import stored_text
from orchestrator.transport.redis.patience import SLICE_S, outlast
from orchestrator.transport.redis.readable import is_readable
from orchestrator.transport.store import Store

#: Shortest wait for a reply: one that Redis has already still takes a moment to arrive.
_LEAST_S: Final = 0.01


class Inbox(Protocol):
    """The inbox in which an asker waits; ``with`` closes it."""

    def read(self, until: float) -> list[tuple[str, Outcome | None]]:
        """The next outcomes, each with the label of its ask; empty if none came in time.

        Waits for the first until ``until``, in seconds of the monotonic clock.

        ``None`` stands for a timeout that a sweep has noticed before the asker.

        Raises:
            BrokerUnavailable: Redis did not answer at the end, or refused for good.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class RedisInbox:
    """A stream, which expires. Reading leaves it as it is, so no outcome is lost with a connection.

    The wait is timed here: Redis would find that its time is over up to 0.1 s late. A command that still waits when a
    read ends goes on waiting, and the next read takes its reply.
    """

    def __init__(self, open_store: Callable[[], Store], id: str) -> None:
        self._open_store = open_store
        self._id = id
        self._last: bytes | str = "0"
        self._pool: Any = None
        #: The connection on which a command waits, if one does.
        self._waiting: Any = None

    def read(self, until: float) -> list[tuple[str, Outcome | None]]:
        """See :class:`Inbox`."""
        store = outlast(until, self._open_store)
        self._pool = store.pool
        while True:
            try:
                entries = outlast(until, lambda: self._next(store.keys.inbox(self._id), until))
            except (RedisError, OSError) as error:
                raise store.failure(error) from error
            if entries:
                self._last = entries[-1][0]
                # What something else has written there is no reply to anything.
                key = store.keys.inbox(self._id)
                read = [store.read_or_skip(key, partial(_read, fields)) for _, fields in entries]
                if replies := [reply for reply in read if reply is not None]:
                    return replies
            if monotonic() >= until:
                return []
            store.look_between_waits(until)

    def _next(self, key: str, until: float) -> list[Any]:
        """The entries that come until then; empty if none did, or if Redis has to be asked anew."""
        try:
            if self._waiting is None:
                self._waiting = self._pool.get_connection()
                self._waiting.send_command("XREAD", "BLOCK", to_ms(SLICE_S), "STREAMS", key, self._last)
            if self._waiting._sock is None:
                raise RedisConnectionError("closed meanwhile")
            if not is_readable(self._waiting, max(_LEAST_S, until - monotonic())):
                return []
            found = self._waiting.read_response()
        except BaseException:
            self.close()
            raise
        connection, self._waiting = self._waiting, None
        self._pool.release(connection)
        if not found:
            return []
        # RESP3 answers with a mapping, RESP2 with pairs.
        entries: list[Any] = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
        return entries

    def close(self) -> None:
        """Close the connection on which a command waits: its reply is for nobody else."""
        connection, self._waiting = self._waiting, None
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read(fields: Any) -> tuple[str, Outcome | None]:
    named = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    wire = json.loads(named[b"o"])
    return stored_text(named[b"l"]), None if wire.get("outcome") == TIMEOUT else from_wire(wire)
