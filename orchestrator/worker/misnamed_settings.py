"""Finds the settings of one app that name something unknown."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.agents.unknown_names import unknown_names
from orchestrator.core.errors import OrchestratorError
from orchestrator.worker.startup_warnings import own_tasks

if TYPE_CHECKING:
    from orchestrator.wiring.runtime import Runtime


def misnamed_settings(runtime: Runtime) -> list[str]:
    """A line for each name in the settings that no agent, message or task has.

    Known are those declared in this process and those announced in Redis.
    """
    settings = runtime.settings
    if not (settings.timeouts or settings.deadlines or settings.mailboxes or settings.breakers):
        return []
    agents: dict[str, Collection[str]] = {}
    with suppress(OrchestratorError):
        agents = {name: entry.messages for name, entry in runtime.modes.announced().items()}
    agents |= {name: [*spec.handlers, "on_down"] for name, spec in runtime.directory.declared.items()}
    return unknown_names(settings, agents, [name for name, _ in own_tasks(runtime.app)])
