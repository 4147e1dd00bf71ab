"""Hosts that are about to register: processes that were declared dead, and have found out.

Such a process reports that it lives, ends its connection, and registers a new incarnation a few hundredths of a second
later. A caller of its agent waits for that.
"""

from __future__ import annotations

from time import monotonic, sleep

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.registry.registry import Registry

#: Ends that a living process records of its own incarnation.
_OF_THE_LIVING = (DeathReason.FENCED, DeathReason.DATASET_LOST)

#: How long it may take to register, and the pause between two looks whether it has.
_REGISTERING_S = 1.0
_LOOK_EVERY_S = 0.02

#: Deaths that are looked through for such ends.
_RECENT_DEATHS = 20


def await_host(registry: Registry, agent: str, queue: str, wait_s: float) -> str:
    """Wait for an incarnation that hosts an agent, if a process that hosted it has reported that it lives.

    Waits at most ``wait_s``, and no longer than a second after the report. Returns the incarnation, or '' if there is
    none by then, or no such report.

    Raises:
        BrokerUnavailable: Redis cannot be reached.
    """
    until = monotonic() + min(wait_s, _left_s(registry, agent))
    host = ""
    while not host and (left_s := until - monotonic()) > 0:
        sleep(min(_LOOK_EVERY_S, left_s))
        host = registry.host_of(agent, queue)
    return host


def _left_s(registry: Registry, agent: str) -> float:
    deaths = registry.deaths(_RECENT_DEATHS)
    reported = [one.at_ms for one in deaths if one.reason in _OF_THE_LIVING and agent in one.agents]
    return max(reported) / 1000 + _REGISTERING_S - registry.now_ms() / 1000 if reported else 0.0
