"""Calls whose outcome is waited for on the connection that sent their request."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final

from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.transport.redis.call_connection import CallConnection
from orchestrator.transport.redis.patience import SLICE_S
from orchestrator.transport.store import Store

#: Connections that are kept open between calls.
_MOST_IDLE: Final = 10


class AwaitedCalls:
    """Knows which calls are under way. Safe for several threads: each call has a connection for itself."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._idle: deque[CallConnection] = deque()
        #: By delivery: its connection, once its request is being sent.
        self._calls: dict[str, CallConnection | None] = {}

    def during(self, request: OutgoingMessage, wait: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """Around the sending of a request and the wait for its outcome."""
        return _AwaitedCall(self, request.id, wait)

    def begin(self, delivery_id: str) -> None:
        """Register a request that is about to be sent, and waited for here."""
        self._calls[delivery_id] = None

    def end(self, delivery_id: str) -> None:
        """Forget a request, and keep its connection for another one."""
        connection = self._calls.pop(delivery_id)
        if connection is not None:
            if connection.is_waiting:
                connection.drop()
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
            else:
                connection.drop()

    def connection(self, request: OutgoingMessage) -> CallConnection | None:
        """The connection on which to send a request; ``None`` if nobody waits for its outcome here."""
        if request.id not in self._calls:
            return None
        store = self._open_store()
        connection = self._calls[request.id]
        if connection is None:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = CallConnection(store.pool)
            self._calls[request.id] = connection
        deadline_at_s = request.supervision.deadline_at_s
        left_s = SLICE_S if deadline_at_s is None else deadline_at_s - time.time()
        connection.prepare(store.keys.outcome(request.id), max(0.01, min(left_s, SLICE_S)))
        return connection

    def outcome(self, delivery_id: str, until: float) -> Any:
        """The recorded outcome of a call, as it came; ``None`` if there is none until then, or Redis is away."""
        connection = self._calls.get(delivery_id)
        if connection is None:
            return None
        return connection.outcome(until, SLICE_S, self._open_store().look_between_waits)


class _AwaitedCall:
    """The context of one call, and in it the one in which a handler's wait is recorded (see ``waits.py``)."""

    # A generator would take three times as long.
    __slots__ = ("_calls", "_delivery_id", "_wait")

    def __init__(self, calls: AwaitedCalls, delivery_id: str, wait: AbstractContextManager[None]) -> None:
        self._calls = calls
        self._delivery_id = delivery_id
        self._wait = wait

    def __enter__(self) -> None:
        self._calls.begin(self._delivery_id)
        try:
            self._wait.__enter__()
        except BaseException:
            self._calls.end(self._delivery_id)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return self._wait.__exit__(kind, error, traceback)
        finally:
            self._calls.end(self._delivery_id)
