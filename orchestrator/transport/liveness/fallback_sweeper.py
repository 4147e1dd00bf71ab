"""Sweeps by workers: at once when a heartbeat is missed, and when the monitor manager does not sweep."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic

from orchestrator.core.clock import to_ms
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.telemetry import emit, events
from orchestrator.transport.liveness.heartbeat import HeartbeatReply
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.options import Options

logger = get_logger(__name__)

#: Between two sweeps of a worker that sweeps in the place of the monitor manager.
_EVERY_S = 0.9

#: Milliseconds between two sweeps while a heartbeat is missed, whichever worker sweeps. A process that is merely
#: stopped costs no more than that until its lease has expired.
_MISSED_EVERY_MS = 250

#: A sweep that is this many ms younger than this worker's last one was another sweeper's.
_SOMEBODY_ELSE_MS = 200

#: Between two warnings that the monitor manager does not sweep.
_WARN_EVERY_S = 30.0


class FallbackSweeper:
    """Decides from the reply to each heartbeat whether this process has to sweep."""

    def __init__(self, sweeper: Sweeper, options: Options, incarnation: str, queues: Collection[str]) -> None:
        self._sweeper = sweeper
        self._options = options
        self._incarnation = incarnation
        #: What this process consumes now.
        self._queues = queues
        self._began_at = monotonic()
        #: When it last swept, while the monitor manager does not.
        self._swept_at: float | None = None
        self._warned_at = float("-inf")

    def after_heartbeat(self, reply: HeartbeatReply) -> None:
        """Sweep if a sweep is overdue, and go on until another sweeper does; or if a heartbeat is missed.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._is_overdue(reply.since_sweep_ms):
            self._sweep_as_fallback(reply.since_sweep_ms)
        elif reply.somebody_missed and reply.since_sweep_ms > _MISSED_EVERY_MS:
            swept = self._sweep()
            if swept and self._swept_at is not None:
                self._swept_at = monotonic()

    def _is_overdue(self, since_ms: int) -> bool:
        if since_ms < 0:
            # There was no sweep yet; the monitor manager gets time to start.
            since_ms = to_ms(monotonic() - self._began_at)
        if since_ms > to_ms(self._options.sweep_stale_s):
            return True
        if self._swept_at is None:
            return False
        if since_ms < to_ms(monotonic() - self._swept_at) - _SOMEBODY_ELSE_MS:
            self._swept_at = None
            return False
        return since_ms > to_ms(_EVERY_S)

    def _sweep_as_fallback(self, since_ms: int) -> None:
        now = monotonic()
        # Where all has just been started, the monitor manager may only be late.
        has_waited = now - self._began_at > 2 * self._options.sweep_stale_s
        if self._options.managed and has_waited and now - self._warned_at > _WARN_EVERY_S:
            self._warned_at = now
            last = f"the last sweep was {since_ms / 1000:.1f} s ago" if since_ms >= 0 else "there was no sweep yet"
            if HOUSEKEEPING_QUEUE in self._queues:
                logger.warning(
                    "no beat asks for sweeps, so incarnation %s sweeps by itself: %s; "
                    "start a beat (celery -A APP beat)",
                    self._incarnation,
                    last,
                )
            else:
                logger.warning(
                    "incarnation %s sweeps in place of the monitor manager: %s; check that a beat runs "
                    "(celery -A APP beat) and that a worker consumes the queue monitor-manager",
                    self._incarnation,
                    last,
                )
        if self._sweep():
            emit(events.SWEEP_FALLBACK, {"stale_s": since_ms / 1000}, by=self._incarnation)
            self._swept_at = monotonic()

    def _sweep(self) -> bool:
        """Sweep; returns whether it was this sweeper's turn."""
        return not self._sweeper.sweep(self._incarnation).stood_back
