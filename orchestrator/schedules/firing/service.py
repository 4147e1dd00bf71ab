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
from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, InvalidSchedule
from orchestrator.core.log import get_logger
from orchestrator.schedules.declared.code_declaration import CodeDeclaration
from orchestrator.schedules.firing.bell import Bell
from orchestrator.schedules.firing.clock_watch import ClockWatch
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.firing.failed_passes import FailedPasses
from orchestrator.schedules.firing.one_pass import Firing
from orchestrator.schedules.firing.pace import Pace
from orchestrator.schedules.firing.turn import Turn

logger = get_logger(__name__)

#: Longest sleep. It is counted by the monotonic clock: a clock that is set ends no sleep early, and prolongs none.
_SLEEP_S: Final = 1.0

#: Between two preparations, however often the schedules change.
_PREPARE_S: Final = 1.0


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
        declare: Callable[[], None],
        count: Callable[[], int],
        duties: Callable[[Due], None] = lambda _: None,
        rate: float = 0.0,
        stopped: threading.Event | None = None,
    ) -> None:
        self._firing = firing
        self._bell = bell
        self._scheduler = scheduler
        self._stale_ms = round(stale_s * 1000)
        self._duties = duties
        self._stopped = stopped or threading.Event()
        self._turn = Turn(scheduler, stale_s)
        self._declaration = CodeDeclaration(scheduler, declare, count)
        self._clock = ClockWatch(scheduler)
        self._failures = FailedPasses(scheduler)
        self._pace = Pace(rate)
        self._preparation = _Preparation(firing)
        #: Longest sleep while it is not this scheduler's turn. A worker in beat's place looks rarely.
        self._longest_s = max(_SLEEP_S, stale_s / 2)

    @property
    def is_mine(self) -> bool:
        """Whether this scheduler has the turn."""
        return self._turn.is_mine

    def tick(self) -> float:
        """One pass; returns the seconds until the next one is due. Raises nothing that Redis' absence raises."""
        try:
            return self._tick()
        except InvalidSchedule as error:
            logger.error("scheduler %s cannot declare what is in code: %s", self._scheduler, error)
            self._declaration.is_done = True
            return 0.0
        except (RedisError, BrokerUnavailable, OperationalError, OSError) as error:
            wait_s = self._failures.log(error)
            if self._failures.is_away:
                self._bell.close()
            return wait_s

    def wait(self, wait_s: float) -> None:
        """Sleep until the next pass is due, or a schedule has changed."""
        if self.is_mine:
            self._bell.wait(min(wait_s, _SLEEP_S))
        else:
            self._stopped.wait(min(wait_s, self._longest_s))

    def declare_again(self) -> None:
        """Declare what is in code with the next tick: it has changed."""
        self._declaration.is_done = False

    def close(self) -> None:
        """Give the turn to another scheduler. If Redis is away, it takes the turn when this one's runs out."""
        self._stopped.set()
        self._turn.is_mine = False
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
        declares = self._stale_ms == 0 or self.is_mine
        if declares:
            self._declaration.run()
        began_at, most = monotonic(), self._pace.most_in_pass
        due, fired = self._firing.pass_once(self._stale_ms, secrets.token_hex(8), most, with_bound=declares)
        if self._failures.end():
            self._clock.begin_again()
            self._preparation.begin_again()
        self._clock.look(due)
        self._declaration.look(due)
        has_taken_over = self._turn.look(due)
        if not due.is_mine and self._stale_ms:
            self._declaration.is_done = False
        self._duties(due)
        self._preparation.look(due)
        self._pace.fired(fired, began_at)
        # A worker that has just taken over declares what it knows with the next tick.
        return 0.0 if has_taken_over and self._stale_ms else self._sleep_s(due)

    def _sleep_s(self, due: Due) -> float:
        wait_s = self._longest_s if due.wait_ms is None else due.wait_ms / 1000
        if not due.is_mine and due.others_ms:
            # The other's turn may end before the next look.
            wait_s = min(wait_s, due.others_ms / 1000 + 0.01) if self._stale_ms == 0 else self._longest_s
        wait_s = max(wait_s, self._pace.wait_s)
        rounds = self._firing.housekeeping
        if rounds is not None and due.is_mine:
            wait_s = min(wait_s, rounds.wait_s())
        return max(0.0, min(wait_s, _SLEEP_S if due.is_mine else self._longest_s))


class _Preparation:
    """Has the first fire find everything open: what Celery loads and opens for it takes longer than many fires."""

    def __init__(self, firing: Firing) -> None:
        self._firing = firing
        #: How many schedules there were when messages were last prepared, and when that may be done again.
        self._prepared_for = 0
        self._may_prepare_at = 0.0

    def look(self, due: Due) -> None:
        now = monotonic()
        if due.is_mine and not due.schedules and due.number != self._prepared_for and now >= self._may_prepare_at:
            self._may_prepare_at = now + _PREPARE_S
            self._prepared_for = due.number
            self._firing.prepare()

    def begin_again(self) -> None:
        self._prepared_for = 0


def scheduler_name(kind: str) -> str:
    """A name that no other scheduler has."""
    return f"{kind}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
