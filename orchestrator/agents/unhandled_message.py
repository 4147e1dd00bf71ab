"""The error of an unregistered task whose name is that of an agent's message."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.errors import UnknownMessage


def unhandled(agents: Mapping[str, AgentSpec], task: str) -> UnknownMessage | None:
    """The error of a message that its agent has no handler for; ``None`` if the task names none of the agents."""
    spec = max(
        (spec for name, spec in agents.items() if task.startswith(f"{name}.")),
        key=lambda spec: len(spec.name),
        default=None,
    )
    return None if spec is None else UnknownMessage(spec.name, task[len(spec.name) + 1 :], spec.handlers)
