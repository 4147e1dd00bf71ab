"""Begins conversations: checks which agents take part, and the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.agents.agent import Agent
from orchestrator.agents.directory import Directory
from orchestrator.core.calls.conversation import MOST_AGENTS, Conversation, check_data
from orchestrator.core.errors import InvalidPolicy
from orchestrator.sending.messages.agent_messages import new_id

_ALLOWED = "a list of agents' names or Agent classes"


def begin_conversation(
    directory: Directory, agents: Iterable[str | type[Agent]], data: Mapping[str, Any] | None
) -> Conversation:
    """A new conversation; see :meth:`orchestrator.app.Orchestrator.conversation`."""
    if isinstance(agents, str | bytes | type) or not isinstance(agents, Iterable):
        raise InvalidPolicy("agents", agents, _ALLOWED)
    names = tuple(_name_of(agent) for agent in agents)
    if len(names) > MOST_AGENTS:
        raise InvalidPolicy("agents", f"{len(names)} of them", f"at most {MOST_AGENTS}")
    for name in names:
        directory.queue_of(name)
    return Conversation(new_id(), names, check_data(data))


def _name_of(agent: object) -> str:
    if isinstance(agent, type) and issubclass(agent, Agent):
        return agent.name
    if not isinstance(agent, str):
        raise InvalidPolicy("agents", agent, _ALLOWED)
    return agent
