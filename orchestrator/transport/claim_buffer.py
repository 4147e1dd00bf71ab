"""Messages that are claimed and not delivered; those claimed ahead are requeued if they stay here for long."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic

from orchestrator.core.log import get_logger
from orchestrator.transport.liveness.claim import Claim

logger = get_logger(__name__)

#: A message and its claim.
Buffered = tuple[Claim, bytes]

#: Longest time in seconds that a message claimed ahead waits here for a free slot.
HOLD_S = 0.2


class ClaimBuffer:
    """The messages of one channel, in the order of delivery. Safe for several threads: a message is taken out once.

    A thread takes out what was claimed ahead ``HOLD_S`` after its claim, and calls ``requeue`` with it. It is no timer
    of the event loop, because a solo pool keeps the loop for as long as its task runs.
    """

    def __init__(self, requeue: Callable[[list[Buffered]], None]) -> None:
        self._requeue = requeue
        # A signal's handler may close the channel in the middle of a delivery of the same thread.
        self._lock = threading.RLock()
        self._items: deque[Buffered] = deque()
        self._expires_at: float | None = None
        self._filled = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._items)

    def extend(self, items: Iterable[Buffered]) -> None:
        """Append messages; those claimed ahead are the last ones."""
        with self._lock:
            self._items.extend(items)
            if not self._items or not self._items[-1][0].ahead:
                return
            self._expires_at = monotonic() + HOLD_S
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._expire, name="orchestrator-claims", daemon=True)
                self._thread.start()
        if not self._filled.is_set():
            self._filled.set()

    def pop(self) -> Buffered | None:
        """Take out the next message; ``None`` if there is none."""
        with self._lock:
            return self._items.popleft() if self._items else None

    def pop_last(self, count: int) -> list[Buffered]:
        """Take out the last messages, in the order of delivery."""
        with self._lock:
            return [self._items.pop() for _ in range(min(count, len(self._items)))][::-1]

    def pop_all(self) -> list[Buffered]:
        """Take out all messages."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
            return items

    def close(self) -> None:
        """End the thread, if there is one. What is left stays here."""
        self._closed.set()
        self._filled.set()

    def _expire(self) -> None:
        while self._filled.wait() and not self._closed.is_set():
            # Cleared before the look, so that what comes after it is seen the next time.
            self._filled.clear()
            while (expired := self._pop_expired()) is None and not self._closed.is_set():
                self._closed.wait(max(0.0, (self._expires_at or 0.0) - monotonic()))
            if expired:
                try:
                    self._requeue(expired)
                except Exception:
                    # They are still held, and requeued when the channel or the process ends.
                    logger.exception("%d messages that were claimed ahead could not be requeued", len(expired))

    def _pop_expired(self) -> list[Buffered] | None:
        """The messages claimed ahead, if their time is over; else ``None``."""
        with self._lock:
            if not self._items or self._expires_at is None:
                return []
            if monotonic() < self._expires_at:
                return None
            kept = [item for item in self._items if not item[0].ahead]
            expired = [item for item in self._items if item[0].ahead]
            self._items.clear()
            self._items.extend(kept)
            self._expires_at = None
            return expired
