"""Declares the schedules that are in code, and again after Redis has lost its data."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.core.log import get_logger
from orchestrator.schedules.firing.due import Due
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)


class CodeDeclaration:
    """The declaration by one scheduler; ``count`` returns how many of the schedules in Redis are declared in code."""

    def __init__(self, scheduler: str, declare: Callable[[], None], count: Callable[[], int]) -> None:
        self._scheduler = scheduler
        self._declare = declare
        self._count = count
        self.is_done = False
        #: The data set of the last look; ``None`` before the first look.
        self._mark: str | None = None
        #: The number of schedules at the last look, and of those that were added at run time.
        self._number = 0
        self._added = 0

    def run(self) -> None:
        """Declare what is in code, unless that is done."""
        if not self.is_done:
            self._declare()
            self.is_done = True

    def look(self, due: Due) -> None:
        """Declare again if Redis has another data set than at the last look."""
        before, self._mark = self._mark, due.mark
        if before is not None and before != due.mark:
            lost = self._added
            self._declare()
            if lost:
                logger.error(
                    "Redis has forgotten its schedules: %d of them were added at run time and are gone; those declared "
                    "in code were declared again; `schedules import` reads a backup",
                    lost,
                )
            else:
                logger.warning("Redis has forgotten its schedules; those declared in code were declared again")
            emit(events.SCHEDULES_LOST, {"count": lost}, scheduler=self._scheduler)
        if due.number != self._number or due.mark != before:
            self._number, self._added = due.number, max(0, due.number - self._count())
