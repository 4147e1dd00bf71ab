"""Sweeping in the place of a monitor manager that does not."""

from __future__ import annotations

import logging
from time import monotonic

from orchestrator.core.clock import to_ms
from orchestrator.telemetry import emit, events
from orchestrator.transport.options import Options
from orchestrator.transport.sweep import Sweeper

logger = logging.getLogger(__name__)

#: How often a worker that stands in sweeps, once it does.
_EVERY_S = 0.9

#: A sweep this much younger than our own last one was somebody else's.
_SOMEBODY_ELSE_MS = 200

#: Between two warnings that the monitor manager does not sweep.
_WARN_EVERY_S = 30.0


class StandIn:
    """Decides from the answer to each heartbeat whether this worker has to sweep."""

    def __init__(self, sweeper: Sweeper, options: Options, incarnation: str) -> None:
        self._sweeper = sweeper
        self._options = options
        self._incarnation = incarnation
        self._began_at = monotonic()
        self._swept_at: float | None = None
        self._warned_at = float("-inf")

    def after_heartbeat(self, since_ms: int) -> None:
        """Sweep if that is overdue, and then until somebody else does. ``since_ms`` is the age of the last sweep; -1
        if there never was one.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._must_sweep(since_ms):
            self._sweep(since_ms)

    def _must_sweep(self, since_ms: int) -> bool:
        if since_ms < 0:
            # Nobody ever has; give whoever should the time to start.
            since_ms = to_ms(monotonic() - self._began_at)
        if since_ms > to_ms(self._options.sweep_stale_s):
            return True
        if self._swept_at is None:
            return False
        if since_ms < to_ms(monotonic() - self._swept_at) - _SOMEBODY_ELSE_MS:
            self._swept_at = None
            return False
        return since_ms > to_ms(_EVERY_S)

    def _sweep(self, since_ms: int) -> None:
        if self._options.managed and monotonic() - self._warned_at > _WARN_EVERY_S:
            self._warned_at = monotonic()
            how_long = f"no sweep for {since_ms / 1000:.1f} s" if since_ms >= 0 else "no sweep yet"
            logger.warning(
                "%s: are beat and the monitor manager running? %s sweeps in its place", how_long, self._incarnation
            )
        if self._sweeper.sweep(self._incarnation).stood_back:
            return
        emit(events.SWEEP_STOOD_IN, {"stale_s": since_ms / 1000}, by=self._incarnation)
        self._swept_at = monotonic()
