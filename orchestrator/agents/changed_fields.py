"""Checks the changed fields of a message by the model that its agent declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.message import decode, encode


def checked_fields(
    agents: Mapping[str, AgentSpec], hidden: tuple[str, ...], agent: str, message: str, fields: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The fields as they are sent; ``None`` if the agent or its message is not declared in this process.

    Raises:
        InvalidMessage: they do not fit the model.
    """
    spec = agents.get(agent)
    handler = spec.handlers.get(message) if spec is not None else None
    return None if handler is None else encode(decode(handler.message, fields, hidden=hidden))
