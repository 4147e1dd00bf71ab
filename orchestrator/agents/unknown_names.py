"""Finds names in the settings that no agent, message or task has, each with the most similar known name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

from orchestrator.core.settings import Settings
from orchestrator.core.spelling.nearest import meant


def unknown_names(settings: Settings, agents: Mapping[str, Collection[str]], tasks: Collection[str]) -> list[str]:
    """A line for each name in the settings' tables that matches no agent, message or plain task.

    These are warnings: another deployment may have the name, and not have announced its agents yet.
    """
    messages = {f"{agent}.{message}" for agent, names in agents.items() for message in names}
    of_agents, of_all = set(agents), {*agents, *messages, *tasks}
    return [
        *_unknown("timeouts", settings.timeouts, of_all, "agent, message or task"),
        *_unknown("deadlines", settings.deadlines, of_all, "agent, message or task"),
        *_unknown("mailboxes", settings.mailboxes, of_agents, "agent"),
        *_unknown("breakers", settings.breakers, of_agents, "agent"),
    ]


def _unknown(table: str, names: Collection[str], known: Collection[str], kind: str) -> Iterator[str]:
    for name in names:
        if not any(name == other or fnmatchcase(other, name) for other in known):
            yield f"{table}[{name!r}]: no {kind} that is known here has this name{meant(name, known)}"
