"""Handing one outgoing message to a backend, with the events of its send."""

from __future__ import annotations

from time import monotonic

from orchestrator.core.errors import AgentDown
from orchestrator.core.policies.policy import WhenDown
from orchestrator.sending.backend import Backend, SendResult
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_events import emit_failed, emit_sent, emit_started


def send_with_events(backend: Backend, message: OutgoingMessage) -> SendResult:
    """Send a message.

    Raises:
        AgentDown: no living worker hosts the agent, and ``when_down`` is ``"error"``.
        OrchestratorError: as :meth:`Backend.send`.
    """
    emit_started(message)
    began = monotonic()
    try:
        sent = backend.send(message)
    except Exception as error:
        emit_failed(message, error, monotonic() - began)
        raise
    if sent.published:
        emit_sent(message, sent, monotonic() - began)
    return sent


def refuse_if_down(backend: Backend, message: OutgoingMessage) -> None:
    """Refuse a message to an agent that is down, if its policy says so.

    Raises:
        AgentDown: no living worker hosts the agent, and ``when_down`` is ``"error"``.
    """
    if message.when_down is WhenDown.ERROR and not backend.hosted(message):
        raise AgentDown(message.supervision.agent or message.task)
