"""The errors of messages that their agent does not handle."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from orchestrator.agents.spec import AgentSpec
from orchestrator.agents.votes import vote_name
from orchestrator.core.errors import UnknownMessage


def unhandled(agents: Mapping[str, AgentSpec], task: str) -> UnknownMessage | None:
    """The error of an unregistered task that is an agent's message; ``None`` if it names none of the agents."""
    spec = max(
        (spec for name, spec in agents.items() if task.startswith(f"{name}.")),
        key=lambda spec: len(spec.name),
        default=None,
    )
    return None if spec is None else unknown_message(spec.name, task[len(spec.name) + 1 :], spec.handlers)


def unknown_message(agent: str, message: str, known: Collection[str]) -> UnknownMessage:
    """The error of a message that an agent does not handle; if it votes on such, how they are proposed."""
    proposes = f"orchestrator.propose, because the agent votes on {message}" if vote_name(message) in known else ""
    return UnknownMessage(agent, message, known, proposes)
