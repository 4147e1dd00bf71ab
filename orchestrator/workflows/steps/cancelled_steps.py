"""The message by which an agent learns that a step which it has is cancelled: written by the script that cancels it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.core.errors import UnknownAgent, UnknownMessage
from orchestrator.core.message import message_name
from orchestrator.core.workflows.cancelled_step import CancelledStep
from orchestrator.registry.registry import AgentEntry
from orchestrator.sending.address import Directory
from orchestrator.sending.messages.agent_messages import build_celery_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.transport.message_envelope import envelope
from orchestrator.transport.store import Store

_NAME = message_name(CancelledStep)


def message_to(directory: Directory, agent: str) -> OutgoingMessage | None:
    """The message to an agent, without its fields; ``None`` if the agent has no method for it."""
    try:
        address = directory.address(agent, _NAME)
    except (UnknownAgent, UnknownMessage):
        return None
    message = build_celery_message(address, directory.timeouts, None, ())
    # A script sends it, perhaps much later.
    return replace(message, expires_s=None, supervision=replace(message.supervision, deadline_at_s=None))


def write_texts(store: Store, directory: Directory, entries: Iterable[AgentEntry]) -> None:
    """Write what scripts send to these agents, if they have a method for it; called by the worker that hosts them.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    key = store.keys.on_cancelled
    for entry in entries:
        message = message_to(directory, entry.name) if _NAME in entry.messages else None
        command = ("HDEL", key, entry.name) if message is None else ("HSET", key, entry.name, _text(store, message))
        store.ask(partial(_call, command))


def _call(command: tuple[str, ...], call: Callable[..., Any]) -> Any:
    return call(*command)


def _text(store: Store, message: OutgoingMessage) -> str:
    """The level of its mailbox, and its text with the marks ``@ID@`` and ``@BODY@``."""
    text = envelope(
        task=message.task,
        queue=queue_name(message),
        id="@ID@",
        supervision=message.supervision.to_wire(),
        arguments=f"({_NAME},)",
        origin="workflows",
        body="@BODY@",
    )
    return f"{store.level_of(message.priority)}\n{text}"
