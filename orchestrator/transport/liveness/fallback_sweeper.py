"""Sweeps by workers: at once after a proved death or a missed heartbeat, and in place of the monitor manager."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic

from orchestrator.core.clock import to_ms
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.supervisor.beat_of_tree import RESTART_S, beat_of_tree, how_to_see_beat
from orchestrator.telemetry import emit, events
from orchestrator.transport.liveness.heartbeat import HeartbeatReply
from orchestrator.transport.liveness.sweep import Sweeper
from orchestrator.transport.options import Options

logger = get_logger(__name__)

#: Between two sweeps of a worker that sweeps in the place of the monitor manager.
_EVERY_S = 0.9

#: A sweep that is this many ms younger than this worker's last one was another sweeper's.
_SOMEBODY_ELSE_MS = 200

#: Between two warnings that the monitor manager does not sweep.
_WARN_EVERY_S = 30.0


def sweep_as_fallback(sweeper: Sweeper, options: Options, by: str, since_sweep_ms: int) -> None:
    """Sweep in a process that is no worker, because a death needs it or no worker looks for the dead.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    if since_sweep_ms > to_ms(options.sweep_stale_s):
        emit(events.SWEEP_FALLBACK, {"stale_s": since_sweep_ms / 1000}, by=by)
    sweeper.sweep(by)


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
        #: Since when, and until when, it has swept in place of the monitor manager.
        self._fallback_since = self._fallback_until = float("-inf")
        #: When to sweep again, to judge who may still connect.
        self._again_at: float | None = None

    def next_in_s(self, otherwise_s: float) -> float:
        """Seconds until the next heartbeat: sooner than usual if somebody is to be judged then."""
        if self._again_at is None:
            return otherwise_s
        return min(otherwise_s, max(0.0, self._again_at - monotonic()))

    def after_heartbeat(self, reply: HeartbeatReply) -> None:
        """Sweep if a sweep is overdue, and go on until another sweeper does; or if a death needs one.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        is_due = self._again_at is not None and monotonic() >= self._again_at
        if is_due:
            self._again_at = None
        if self._is_overdue(reply.since_sweep_ms):
            self._sweep_as_fallback(reply.since_sweep_ms)
        elif reply.asks_for_sweep or is_due:
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
        if now - self._fallback_until > 2 * self._options.sweep_stale_s:
            self._fallback_since = now
        self._fallback_until = now
        # Where all has just been started, the monitor manager may only be late; and a tree restarts beat.
        has_waited = now - self._began_at > 2 * self._options.sweep_stale_s
        if beat_of_tree():
            has_waited = now - self._fallback_since > RESTART_S
        if self._options.managed and has_waited and now - self._warned_at > _WARN_EVERY_S:
            self._warned_at = now
            last = f"the last sweep was {since_ms / 1000:.1f} s ago" if since_ms >= 0 else "there was no sweep yet"
            if HOUSEKEEPING_QUEUE in self._queues:
                logger.warning(
                    "no beat asks for sweeps, so incarnation %s sweeps by itself: %s; %s (%s)",
                    self._incarnation,
                    last,
                    "the tree's beat does not run" if beat_of_tree() else "start a beat",
                    how_to_see_beat(),
                )
            else:
                logger.warning(
                    "incarnation %s sweeps in place of the monitor manager: %s; check that a beat runs "
                    "(%s) and that a worker consumes the queue monitor-manager",
                    self._incarnation,
                    last,
                    how_to_see_beat(),
                )
        if self._sweep():
            emit(events.SWEEP_FALLBACK, {"stale_s": since_ms / 1000}, by=self._incarnation)
            self._swept_at = monotonic()

    def _sweep(self) -> bool:
        """Sweep; returns whether it was this sweeper's turn."""
        result = self._sweeper.sweep(self._incarnation)
        if result.again_ms is not None:
            self._again_at = monotonic() + result.again_ms / 1000
        return not result.stood_back
