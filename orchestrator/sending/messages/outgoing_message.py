"""A message on its way out: everything that a publish needs."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kombu import Queue

from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.policies.policy import WhenDown


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message, addressed, with its supervision and Celery's options."""

    id: str
    task: str
    args: Sequence[Any]
    supervision: Supervision
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: Queue | str | None = None
    countdown_s: float | None = None
    expires_s: float | None = None
    priority: int | None = None
    when_down: WhenDown = WhenDown.QUEUE
    #: Celery's callbacks and errbacks, for a task.
    link: Sequence[Any] = ()
    link_error: Sequence[Any] = ()
    #: If given, publishing writes the trace context that the message carries into it.
    trace: MutableMapping[str, Any] | None = None
    #: The other options of a signature, for its task's ``apply_async``.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The ask that it is the request of.
    ask: AskRequest | None = None
    #: Its agent's, which counts it if it is a request.
    bulkhead: Bulkhead | None = None

    def __repr__(self) -> str:
        return f"<OutgoingMessage {self.id}: {self.task}>"

    def with_body(
        self,
        id: str,
        args: Sequence[Any],
        ask: AskRequest | None = None,
        kwargs: Mapping[str, Any] | None = None,
        supervision: Supervision | None = None,
    ) -> OutgoingMessage:
        """The same message with another id and arguments, and with what else is given in place of its own."""
        # Written out: for each of many messages, dataclasses.replace() would take twice as long.
        return OutgoingMessage(
            id,
            self.task,
            args,
            self.supervision if supervision is None else supervision,
            self.kwargs if kwargs is None else kwargs,
            self.queue,
            self.countdown_s,
            self.expires_s,
            self.priority,
            self.when_down,
            self.link,
            self.link_error,
            self.trace,
            self.options,
            self.ask if ask is None else ask,
            self.bulkhead,
        )


@dataclass(frozen=True, slots=True)
class AskRequest:
    """An ask, beside its request."""

    id: str
    timeout_s: float
    #: The reply, a message to the asker, whose fields lack the outcome only.
    reply: OutgoingMessage | None = None
    #: Where else the outcome goes: the id of an inbox, and the outcome's label in it.
    inbox: tuple[str, str] | None = None
    #: How it counts for the budget of retries and hedges (see ``ask.lua``).
    kind: str = "ask"
    #: What is sent unless the request is handled.
    fallback: OutgoingMessage | None = None


def queue_name(outgoing: OutgoingMessage) -> str:
    """The name of the mailbox that a message was addressed to."""
    return str(getattr(outgoing.queue, "name", outgoing.queue))


def own_headers(outgoing: OutgoingMessage) -> dict[str, Any]:
    """The headers that a signature brings along."""
    return dict(outgoing.options.get("headers") or {})
