"""Names in the settings that nobody has: of agents, messages and tasks; each with what is nearest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

from orchestrator.core.nearest import meant
from orchestrator.core.settings import Settings


def unknown_names(settings: Settings, agents: Mapping[str, Collection[str]], tasks: Collection[str]) -> list[str]:
    """A line for each name in the settings' tables that fits none of these agents, their messages, and plain tasks.

    They may be another deployment's, which has not announced its agents yet; so these are warnings.
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
