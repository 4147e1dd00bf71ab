"""Bulkheads in eager mode: requests of several threads, or of handlers that call each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from orchestrator.core.admission import bulkhead as rule
from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BulkheadFull
from orchestrator.sending.messages.outgoing_message import AskRequest
from orchestrator.telemetry import emit, events


class EagerBulkheads:
    """The requests in flight of one process."""

    def __init__(self) -> None:
        self._requests: dict[str, dict[str, int]] = {}
        self._ended = threading.Condition()

    @contextmanager
    def request(self, agent: str, bulkhead: Bulkhead, ask: AskRequest) -> Iterator[None]:
        """Around a request that is in flight.

        Raises:
            BulkheadFull: as many as may be were in flight for the whole time that it waited.
        """
        wait_s = min(bulkhead.wait_s, ask.timeout_s)
        until = monotonic() + wait_s
        with self._ended:
            while not self._enter(agent, bulkhead, ask):
                left_s = until - monotonic()
                if left_s <= 0:
                    count = len(self._requests[agent])
                    emit(events.BULKHEAD_FULL, {"in_flight": count}, agent=agent)
                    raise BulkheadFull(agent, count, bulkhead.calls, wait_s)
                self._ended.wait(left_s)
        try:
            yield
        finally:
            with self._ended:
                self._requests[agent].pop(ask.id, None)
                self._ended.notify_all()

    def _enter(self, agent: str, bulkhead: Bulkhead, ask: AskRequest) -> bool:
        now_ms = to_ms(monotonic())
        known = self._requests.setdefault(agent, {})
        entered = rule.admitted(known, bulkhead.calls, ask.id, now_ms + to_ms(ask.timeout_s), now_ms)
        if entered is not None:
            self._requests[agent] = entered
        return entered is not None
