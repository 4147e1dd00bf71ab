"""The loop of a scheduler, whichever process runs it: a beat, or a worker in a beat's place."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from kombu.exceptions import OperationalError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from orchestrator.core.errors import BrokerUnavailable, InvalidSchedule
from orchestrator.core.log import get_logger
from orchestrator.schedules.bell import Bell
from orchestrator.schedules.due import Due
from orchestrator.schedules.firing import Firing
from orchestrator.schedules.scripts import MOST_AT_ONCE
from orchestrator.telemetry import emit, events

logger = get_logger(__name__)

#: Longest sleep. It is counted by the monotonic clock: a clock that is set ends no sleep early, and prolongs none.
_SLEEP_S: Final = 1.0

#: Redis' clock has jumped if it went ahead of or behind the monotonic one by more than this between two looks.
_JUMP_S: Final = 1.0

#: Between two preparations, however often the schedules change.
_PREPARE_S: Final = 1.0

#: Between two attempts while Redis is away.
AWAY_S: Final = 0.25


class ScheduleService:
    """Fires what is due, sleeps, and begins again. Not for two threads at once.

    Args:
        firing: what fires.
        bell: what wakes it.
        scheduler: its name.
        stale_s: how long nobody must have scheduled before this one does; 0 for a beat.
        declare: declares the schedules that are in code; called first, and again after Redis has lost its data. Returns
            how many it has declared.
        duties: what else it does; called after each pass.
        rate: fires a second at most; 0: no limit.
    """

    def __init__(
        self,
        firing: Firing,
        bell: Bell,
        scheduler: str,
        *,
        stale_s: float,
        declare: Callable[[], int],
        duties: Callable[[Due], None] = lambda _: None,
        rate: float = 0.0,
        stopped: threading.Event | None = None,
    ) -> None:
        self._firing = firing
        self._bell = bell
        self._scheduler = scheduler
        self._stale_ms = round(stale_s * 1000)
        self._declare = declare
        self._duties = duties
        self._rate = rate
        self._stopped = stopped or threading.Event()
        #: Of the data set; ``None`` before the first look.
        self._mark: str | None = None
        self._declared = 0
        self._is_declared = False
        #: How many schedules there were.
        self._number = 0
        #: How many there were when messages were last prepared, and when that may be done again.
        self._prepared_for = 0
        self._may_prepare_at = 0.0
        self._is_mine = False
        self._stale_s = stale_s
        self._began_at = monotonic()
        #: When somebody else last scheduled, and whether it was said that this one does so in beat's place.
        self._vacant_since = self._began_at
        self._has_warned = False
        #: Longest sleep while it is not this scheduler's turn. A worker in beat's place looks rarely.
        self._longest_s = max(_SLEEP_S, stale_s / 2)
        self._away_since: float | None = None
        #: What Redis has last refused a pass with.
        self._refused = ""
        #: Redis' time less the monotonic clock, in seconds.
        self._offset_s: float | None = None
        self._may_fire_at = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether this scheduler has the turn."""
        return self._is_mine

    def tick(self) -> float:
        """One pass; returns the seconds until the next one is due. Raises nothing that Redis' absence raises."""
        try:
            return self._tick()
        except InvalidSchedule as error:
            logger.error("scheduler %s cannot declare what is in code: %s", self._scheduler, error)
            self._is_declared = True
            return 0.0
        except (RedisError, BrokerUnavailable, OperationalError, OSError) as error:
            if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError):
                if str(error) != self._refused:
                    self._refused = str(error)
                    logger.error(
                        "scheduler %s: Redis refuses a pass, next try in %g s: %s", self._scheduler, _SLEEP_S, error
                    )
                return _SLEEP_S
            if self._away_since is None:
                self._away_since = monotonic()
                logger.warning("scheduler %s: Redis is away, nothing is fired: %s", self._scheduler, error)
            self._bell.close()
            return AWAY_S

    def wait(self, wait_s: float) -> None:
        """Sleep until the next pass is due, or a schedule has changed."""
        if self._is_mine:
            self._bell.wait(min(wait_s, _SLEEP_S))
        else:
            self._stopped.wait(min(wait_s, self._longest_s))

    def declare_again(self) -> None:
        """Declare what is in code with the next tick: it has changed."""
        self._is_declared = False

    def close(self) -> None:
        """Give the turn to another scheduler. If Redis is away, it takes the turn when this one's runs out."""
        self._stopped.set()
        self._is_mine = False
        self._bell.close()
        self._firing.close()

    def run(self) -> None:
        """Tick and sleep until stopped."""
        while not self._stopped.is_set():
            try:
                wait_s = self.tick()
            except Exception:
                logger.exception("a pass of scheduler %s failed", self._scheduler)
                wait_s = _SLEEP_S
            self.wait(wait_s)

    def stop(self) -> None:
        """End :meth:`run` after the pass that runs."""
        self._stopped.set()

    def _tick(self) -> float:
        # Another worker in beat's place may know other schedules: only the one that fires declares what it knows.
        if not self._is_declared and (self._stale_ms == 0 or self._is_mine):
            self._declared = self._declare()
            self._is_declared = True
        asked_at = monotonic()
        most = self._allowed(asked_at)
        with_bound = self._stale_ms == 0 or self._is_mine
        due, fired = self._firing.pass_once(self._stale_ms, secrets.token_hex(8), most, with_bound=with_bound)
        self._refused = ""
        if self._away_since is not None:
            logger.info("scheduler %s: Redis is back after %.1f s", self._scheduler, monotonic() - self._away_since)
            self._away_since = self._offset_s = None
            self._prepared_for = 0
        self._notice_jump(due)
        self._notice_loss(due)
        has_taken_over = self._notice_turn(due)
        self._number = due.number
        self._duties(due)
        self._prepare(due)
        if self._rate and fired:
            self._may_fire_at = max(self._may_fire_at, asked_at) + fired / self._rate
        # A worker that has just taken over declares what it knows with the next tick.
        return 0.0 if has_taken_over and self._stale_ms else self._sleep_s(due)

    def _prepare(self, due: Due) -> None:
        """Have the first fire find everything open: what Celery loads and opens for it takes longer than many fires."""
        now = monotonic()
        if due.is_mine and not due.schedules and due.number != self._prepared_for and now >= self._may_prepare_at:
            self._may_prepare_at = now + _PREPARE_S
            self._prepared_for = due.number
            self._firing.prepare()

    def _allowed(self, now: float) -> int:
        """How many fires the rate allows in this pass."""
        if not self._rate:
            return MOST_AT_ONCE
        return max(1, min(MOST_AT_ONCE, round(self._rate / 10)))

    def _sleep_s(self, due: Due) -> float:
        wait_s = self._longest_s if due.wait_ms is None else due.wait_ms / 1000
        if not due.is_mine and due.others_ms:
            # The other's turn may end before the next look.
            wait_s = min(wait_s, due.others_ms / 1000 + 0.01) if self._stale_ms == 0 else self._longest_s
        if self._rate:
            wait_s = max(wait_s, self._may_fire_at - monotonic())
        rounds = self._firing.housekeeping
        if rounds is not None and due.is_mine:
            wait_s = min(wait_s, rounds.wait_s())
        return max(0.0, min(wait_s, _SLEEP_S if due.is_mine else self._longest_s))

    def _notice_jump(self, due: Due) -> None:
        offset_s = due.now_ms / 1000 - monotonic()
        if self._offset_s is not None and abs(by_s := offset_s - self._offset_s) > _JUMP_S:
            logger.warning("Redis' clock was set by %+.1f s", by_s)
            emit(events.SCHEDULER_CLOCK_JUMPED, {"by_s": by_s}, scheduler=self._scheduler)
        self._offset_s = offset_s

    def _notice_loss(self, due: Due) -> None:
        before, self._mark = self._mark, due.mark
        if before is None or before == due.mark:
            return
        lost = max(0, self._number - self._declared)
        self._declared = self._declare()
        logger.error(
            "Redis has forgotten its schedules: %d of them were added at run time and are gone; those declared in code "
            "were declared again; `schedules import` reads a backup",
            lost,
        )
        emit(events.SCHEDULES_LOST, {"count": lost}, scheduler=self._scheduler)

    def _notice_turn(self, due: Due) -> bool:
        has_taken_over = due.is_mine and not self._is_mine
        if has_taken_over:
            gap_s = (due.since_ms or 0) / 1000
            self._vacant_since = monotonic() - gap_s if gap_s else self._began_at
            self._has_warned = False
            logger.info("scheduler %s fires", self._scheduler)
            emit(events.SCHEDULER_STARTED, {"gap_s": gap_s}, scheduler=self._scheduler)
        self._is_mine = due.is_mine
        self._warn_if_in_place_of_beat()
        if not due.is_mine:
            self._is_declared = self._is_declared and self._stale_ms == 0
        return has_taken_over

    def _warn_if_in_place_of_beat(self) -> None:
        now = monotonic()
        # Where all has just been started, beat may only be late.
        if self._stale_ms and self._is_mine and not self._has_warned and now - self._began_at > 2 * self._stale_s:
            self._has_warned = True
            logger.warning(
                "%s schedules in place of beat: nobody else has for %.1f s; check that one runs (celery -A APP beat)",
                self._scheduler,
                now - self._vacant_since,
            )


def scheduler_name(kind: str) -> str:
    """A name that no other scheduler has."""
    return f"{kind}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
