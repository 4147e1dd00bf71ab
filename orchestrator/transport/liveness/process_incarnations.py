"""The incarnations of this process, and why the process will have ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.forks import ForkSafeLock

if TYPE_CHECKING:
    from orchestrator.transport.liveness.incarnation import Incarnation


class ProcessIncarnations:
    """The incarnations of this process, one for each broker.

    A process has one incarnation however many connections it opens, so this object lives as long as the process. A
    forked child starts with none.
    """

    def __init__(self) -> None:
        self._by_broker: dict[tuple[int, str], Incarnation] = {}
        #: Why this process will have ended, once it has, and the error if it was one.
        self.ending: tuple[DeathReason, str] = (DeathReason.DRAINED, "")
        self._lock = ForkSafeLock()

    def get(self, broker: str, make: Callable[[], Incarnation]) -> Incarnation:
        """The incarnation for this broker; made if there is none, or the last one has left or was fenced."""
        key = (os.getpid(), broker)
        with self._lock:
            holder = self._by_broker.get(key)
            if holder is None or holder.left or holder.fenced:
                holder = self._by_broker[key] = make()
            return holder

    def leave_all(self) -> None:
        """End every incarnation of this process, now rather than when the process ends."""
        for (pid, _), holder in list(self._by_broker.items()):
            if pid == os.getpid():
                holder.leave()


PROCESS_INCARNATIONS = ProcessIncarnations()
