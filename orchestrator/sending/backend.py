"""The protocol of what carries out sends: Redis, or this process in eager mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.sending.broadcast import BroadcastRequest, Refusal
from orchestrator.sending.calls.inbox import Inbox
from orchestrator.sending.calls.stale import StaleReplies
from orchestrator.sending.delivery import Tracker
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of a send."""

    #: The delivery's id; that of an earlier delivery, if its idempotency key was taken.
    id: str
    #: Whether it was published; a task class' own ``apply_async`` may publish later, or not at all.
    published: bool = True
    #: Queue, exchange and routing_key, if its task's class has chosen them.
    place: Mapping[str, Any] | None = None


class Backend(Protocol):
    """Accepts outgoing messages, and looks up their outcomes."""

    #: Whether a message has its outcome as soon as it is accepted.
    inline: bool

    @property
    def tracker(self) -> Tracker:
        """Looks up where deliveries are."""

    def send(self, message: OutgoingMessage) -> SendResult:
        """Accept a message.

        Raises:
            AgentDown: no living worker hosts the agent, and ``when_down`` is ``"error"``.
            InvalidMessage: its arguments are not JSON data.
            BrokerUnavailable: Redis did not accept it.
            NotSupervised: the app's broker is not one that this library supervises.
        """

    def prepare(self, message: OutgoingMessage) -> None:
        """Prepare for an agent's message that Celery itself will publish. Raises as :meth:`send`."""

    def hosted(self, message: OutgoingMessage) -> bool:
        """Whether a living worker consumes the mailbox that a message goes to.

        Raises:
            BrokerUnavailable: Redis is away.
        """

    def send_many(self, messages: Sequence[OutgoingMessage]) -> None:
        """Accept messages for one agent, in their order. Raises as :meth:`send`; ``accepted`` says how many were."""

    def ask_many(self, requests: Sequence[OutgoingMessage]) -> None:
        """Accept the requests of asks to one agent. Raises as :meth:`send`; ``accepted`` says how many were."""

    def broadcast(self, request: BroadcastRequest) -> Mapping[int, Refusal]:
        """Accept the copies of a broadcast; returns the refused ones by place (see :func:`publish_broadcast`)."""

    def inbox(self, inbox_id: str) -> Inbox:
        """The inbox in which an asker waits."""

    def waiting(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        """Around what waits for the reply to a request.

        Raises:
            CallWouldDeadlock: the reply would wait for this, and ``raises`` is true.
        """

    def end_ask(self, ask_id: str, why: str) -> bool:
        """End an ask (see ``end_ask.lua``); returns whether it was open.

        Raises:
            BrokerUnavailable: Redis is away.
        """

    @property
    def stale(self) -> StaleReplies:
        """The replies that are kept for calls that may fall back to one."""

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        """Wait at most ``timeout_s`` for a recorded outcome; ``None`` if there is none by then."""
