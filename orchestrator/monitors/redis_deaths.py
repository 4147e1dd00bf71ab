"""Ending the monitors of dead incarnations and sessions: their own are removed, and the owners of others get DOWNs."""

from __future__ import annotations

from time import monotonic

from orchestrator.monitors import commands
from orchestrator.monitors.redis_calls import RedisMonitorCalls
from orchestrator.telemetry import emit, events

#: Monitors that one script ends: each was seen to cost Redis 23 µs on a busy machine, and no script may hold Redis for
#: more than 20 ms.
_DEATH_BATCH = 100

#: Seconds for which one call of :meth:`RedisMonitorDeaths.on_death` works.
_ON_DEATH_S = 0.9


class RedisMonitorDeaths(RedisMonitorCalls):
    """Ends the monitors of incarnations and sessions that have died."""

    def on_death(self, incarnation: str, reason: str) -> bool:
        """Remove a dead incarnation's monitors and record DOWNs for monitors on it, as far as time allows.

        Returns whether all is done. May be called any number of times.
        """
        until = monotonic() + _ON_DEATH_S
        return self.clean_owner(incarnation, until) and self._record_downs(incarnation, reason, until)

    def clean_owner(self, owner: str, until: float) -> bool:
        """Remove the monitors of an owner that is gone; returns whether all are removed."""
        k, removed, more = self.store.keys, 0, True
        while more:
            some, more = self.run(*commands.owner_died(k, owner, _DEATH_BATCH))
            removed += some
            if monotonic() > until:
                break
        if removed:
            emit(events.UNMONITORED, {"count": removed}, who=owner, why="owner died")
        return not more

    def _record_downs(self, target: str, reason: str, until: float) -> bool:
        """Record a DOWN for each monitor on a dead target; returns whether all are recorded."""
        k, downs, ownerless, more = self.store.keys, 0, 0, True
        while more:
            some, without_owner, more = self.run(
                *commands.target_died(k, self.down_sending, target, reason, _DEATH_BATCH)
            )
            downs += some
            ownerless += without_owner
            if monotonic() > until:
                break
        if downs:
            emit(events.DOWN, {"count": downs}, target=target, reason=reason)
            emit(events.UNMONITORED, {"count": downs}, who=target, why="target died")
        if ownerless:
            emit(events.UNMONITORED, {"count": ownerless}, who=target, why="owner died")
        return not more
