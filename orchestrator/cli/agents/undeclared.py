"""Messages for an agent that this app does not declare: what its workers announced is all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, create_model

from orchestrator.agents.unhandled_message import unknown_message
from orchestrator.core.errors import UnknownAgent
from orchestrator.core.message import Message, decode
from orchestrator.registry.registry import AgentEntry


class _AsItIs(Message):
    """Takes any fields; the agent validates them."""

    model_config = ConfigDict(extra="allow")


def undeclared_message(
    agent: str, name: str, fields: Mapping[str, Any], announced: Mapping[str, AgentEntry], declared: Mapping[str, Any]
) -> Message:
    """A message of that name that holds the fields as they are.

    Raises:
        UnknownAgent: no worker has announced the agent.
        UnknownMessage: the agent was announced without that message.
    """
    entry = announced.get(agent)
    if entry is None:
        raise UnknownAgent(agent, {*declared, *announced})
    if name not in entry.messages:
        raise unknown_message(agent, name, entry.messages)
    return decode(create_model(name, __base__=_AsItIs), fields)
