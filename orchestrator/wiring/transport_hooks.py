"""The functions that the transport calls: for each dead incarnation, and in each sweep. They connect when called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.transport.redis import commands

if TYPE_CHECKING:
    from orchestrator.transport.options import DeathHook
    from orchestrator.wiring.redis_mode import RedisMode


def death_hooks(redis: Callable[[], RedisMode]) -> tuple[DeathHook, ...]:
    """The death hooks of an incarnation, in the order in which they run."""

    def retire_schedules(incarnation: str, _reason: str) -> bool:
        redis().scheduling.schedules.retire_owner(incarnation)
        return True

    def end_waits(incarnation: str, _reason: str) -> bool:
        store = redis().store
        store.run(*commands.end_waits(store.keys, incarnation))
        return True

    return (
        lambda incarnation, reason: redis().named_leases.on_death(incarnation, reason),
        lambda incarnation, reason: redis().barriers.on_death(incarnation, reason),
        retire_schedules,
        end_waits,
        lambda incarnation, reason: redis().monitors.on_death(incarnation, reason),
    )


def run_due_work(redis: RedisMode) -> None:
    """Run the timers that are due, and go on with the agendas of runs."""
    try:
        redis.timers.run()
    finally:
        redis.runs.upkeep.work_off()
