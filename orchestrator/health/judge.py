"""Verdicts of the probes: pure functions of a health file's contents and of the time."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from orchestrator.core.plural import counted

if TYPE_CHECKING:
    from orchestrator.health.ask_redis import OverdueSchedules

#: A process whose file is older than this cannot run its threads: it hangs or is stopped.
HUNG_AFTER_S = 30.0

#: A worker needs a restart if it was fenced, asks for no messages, or has lost its consumer, and this has lasted longer
#: than this.
WEDGED_AFTER_S = 60.0

#: If the last sweep is older than this (or than three times ``sweep_stale_s``), dead workers are not found.
SWEEP_OVERDUE_S = 10.0


class Exit(IntEnum):
    """Exit codes of the probe."""

    HEALTHY = 0
    UNHEALTHY = 1
    USAGE = 2
    BROKER_AWAY = 3


Verdict = tuple[Exit, str]


def liveness(vitals: Mapping[str, Any], now_s: float) -> Verdict:
    """Whether the process is alive. Unhealthy only if a restart would help, so not while Redis is unreachable."""
    file_age_s = now_s - vitals["at_s"]
    if file_age_s > HUNG_AFTER_S:
        return Exit.UNHEALTHY, f"hangs: its health file is {file_age_s:.0f} s old"
    if (vitals.get("fenced_s") or 0) > WEDGED_AFTER_S:
        return (
            Exit.UNHEALTHY,
            f"was declared dead {vitals['fenced_s']:.0f} s ago, and has not registered a new incarnation",
        )
    if vitals.get("absent_s", 0) > WEDGED_AFTER_S:
        return Exit.UNHEALTHY, f"has consumed nothing for {vitals['absent_s']:.0f} s although Redis answers"
    if vitals.get("not_polling_s", 0) > WEDGED_AFTER_S and not _is_away(vitals):
        return Exit.UNHEALTHY, f"has asked for no messages for {vitals['not_polling_s']:.0f} s"
    return Exit.HEALTHY, "alive"


def readiness(vitals: Mapping[str, Any], now_s: float) -> Verdict:
    """Whether the process is alive and consuming, and sweeps would find its death."""
    alive = liveness(vitals, now_s)
    if alive[0] is not Exit.HEALTHY:
        return alive
    if not vitals.get("incarnation"):
        return Exit.UNHEALTHY, "does not consume (yet, or any more)"
    if vitals.get("fenced_s") is not None:
        return Exit.UNHEALTHY, "was declared dead, and is registering a new incarnation"
    if _is_away(vitals):
        return Exit.BROKER_AWAY, f"no answer from Redis for {vitals['beat_age_s']:.0f} s"
    if vitals["not_polling_s"] > vitals["stuck_s"]:
        return Exit.UNHEALTHY, f"has asked for no messages for {vitals['not_polling_s']:.0f} s"
    overdue_s = max(SWEEP_OVERDUE_S, 3 * vitals["sweep_stale_s"])
    age_s = vitals["sweep_age_s"]
    if age_s is None:
        return Exit.UNHEALTHY, (
            "waits for the first sweep, which finds dead workers: the monitor manager sweeps when beat runs, "
            f"and else a worker, about {vitals['sweep_stale_s']:g} s after its start"
        )
    if age_s > overdue_s:
        return (
            Exit.UNHEALTHY,
            f"dead workers are not found: the last sweep was {age_s:.0f} s ago; allowed: {overdue_s:g}",
        )
    return Exit.HEALTHY, f"alive, consuming, swept {age_s:.1f} s ago"


def sweeps(at_ms: int | None, by: str, manager: str, now_ms: int) -> Verdict:
    """Whether beat and the monitor manager work. A sweep by the manager proves both."""
    if at_ms is None:
        return Exit.UNHEALTHY, "there was no sweep yet"
    age_s = (now_ms - at_ms) / 1000
    if age_s > SWEEP_OVERDUE_S:
        return Exit.UNHEALTHY, f"no sweep for {age_s:.0f} s"
    if by != manager:
        return Exit.UNHEALTHY, f"{by} sweeps unasked: no beat runs, or no worker consumes {manager}"
    return Exit.HEALTHY, f"swept {age_s:.1f} s ago"


def _is_away(vitals: Mapping[str, Any]) -> bool:
    return bool(vitals.get("away")) or vitals.get("beat_age_s", 0) > SWEEP_OVERDUE_S


def schedules(found: OverdueSchedules, late_s: float) -> Verdict:
    """Whether schedules are fired when they are due."""
    if found.first is not None and found.now_ms - found.first[1] > late_s * 1000:
        name, due_ms = found.first
        who = f"the last scheduler was {found.by}" if found.by else "nobody has ever scheduled"
        late = (found.now_ms - due_ms) / 1000
        return Exit.UNHEALTHY, f"schedule {name} is overdue by {late:.0f} s; allowed: {late_s:g}; {who}"
    broken = f", {found.broken} of them broken" if found.broken else ""
    by = f"; fired by {found.by}" if found.by and found.number else ""
    return Exit.HEALTHY, f"{counted(found.number, 'schedule')}{broken}, none is overdue{by}"
