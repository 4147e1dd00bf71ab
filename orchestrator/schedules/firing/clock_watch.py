"""Notices that Redis' clock was set."""

from __future__ import annotations

from time import monotonic
from typing import Final

from orchestrator.core.log import get_logger
from orchestrator.schedules.firing.due import Due
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: Redis' clock has jumped if it went ahead of or behind the monotonic one by more than this between two looks.
_JUMP_S: Final = 1.0


class ClockWatch:
    """Compares Redis' clock with the monotonic one, for one scheduler."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        #: Redis' time less the monotonic clock, in seconds; ``None`` before the first look.
        self.offset_s: float | None = None

    def look(self, due: Due) -> None:
        """Log a jump since the last look."""
        offset_s = due.now_ms / 1000 - monotonic()
        if self.offset_s is not None and abs(by_s := offset_s - self.offset_s) > _JUMP_S:
            logger.warning("Redis' clock was set by %+.1f s", by_s)
            emit(events.SCHEDULER_CLOCK_JUMPED, {"by_s": by_s}, scheduler=self._scheduler)
        self.offset_s = offset_s

    def begin_again(self) -> None:
        """Forget the last look: it may have been at another Redis."""
        self.offset_s = None
