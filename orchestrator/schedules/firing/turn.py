"""The turn of one scheduler: whether it fires, and since when nobody else has."""

from __future__ import annotations

from time import monotonic

from orchestrator.core.log import get_logger
from orchestrator.schedules.firing.due import Due
from orchestrator.supervisor.beat_of_tree import RESTART_S, beat_of_tree, how_to_see_beat
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)


class Turn:
    """Follows the turn, and warns if a worker schedules in beat's place. A beat has a ``stale_s`` of 0."""

    def __init__(self, scheduler: str, stale_s: float) -> None:
        self._scheduler = scheduler
        self._stale_s = stale_s
        self.is_mine = False
        self._began_at = monotonic()
        #: When somebody else last scheduled.
        self._vacant_since = self._began_at
        self._has_warned = False

    def look(self, due: Due) -> bool:
        """Returns whether this scheduler has just taken the turn over."""
        has_taken_over = due.is_mine and not self.is_mine
        if has_taken_over:
            gap_s = (due.since_ms or 0) / 1000
            self._vacant_since = monotonic() - gap_s if gap_s else self._began_at
            self._has_warned = False
            logger.info("scheduler %s fires", self._scheduler)
            emit(events.SCHEDULER_STARTED, {"gap_s": gap_s}, scheduler=self._scheduler)
        self.is_mine = due.is_mine
        if self._stale_s:
            self._warn_in_place_of_beat()
        return has_taken_over

    def _warn_in_place_of_beat(self) -> None:
        now = monotonic()
        # Where all has just been started, beat may only be late; and a tree restarts its own.
        has_waited = now - self._began_at > 2 * self._stale_s
        if beat_of_tree():
            has_waited = now - self._vacant_since > RESTART_S
        if self.is_mine and not self._has_warned and has_waited:
            self._has_warned = True
            logger.warning(
                "%s schedules in place of beat: nobody else has for %.1f s; check that one runs (%s)",
                self._scheduler,
                now - self._vacant_since,
                how_to_see_beat(),
            )
