"""From a recipient and a message to a parcel: where it goes, and how it is supervised on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from celery import Celery
from celery.canvas import Signature
from celery.utils import uuid
from kombu import Queue

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.policy import OnError, Retry
from orchestrator.core.supervision import Supervision
from orchestrator.sending.options import SendOptions, seconds, urgency
from orchestrator.sending.publish import Parcel


@dataclass(frozen=True, slots=True)
class Address:
    """One kind of message for one agent: where it goes, and what agent and handler say about its supervision."""

    agent: str
    message: str
    task: str
    queue: Queue | str
    retry: Retry
    on_error: OnError


class Directory(Protocol):
    """Knows the agents."""

    def address(self, recipient: Any, message: str) -> Address:
        """The address of a message, by its name on the wire, at an agent, by its name or class.

        Raises:
            InvalidPolicy: the recipient is neither.
            UnknownAgent: nobody has declared or announced the agent.
            UnknownMessage: the agent does not handle the message.
        """


def to_agent(directory: Directory, recipient: Any, message: Message | None, options: SendOptions) -> Parcel:
    """The parcel that takes a message to an agent.

    Raises:
        CallerError: see :meth:`Directory.address`; or ``message`` is not a message.
    """
    if not isinstance(message, Message):
        # A recipient that is none is the first thing to be told of.
        if not isinstance(recipient, str | type):
            directory.address(recipient, "")
        raise InvalidPolicy("message", message, "an instance of a Message class")
    address = directory.address(recipient, message_name(type(message)))
    supervision = Supervision(
        options.retry or address.retry,
        options.on_error or address.on_error,
        address.agent,
        address.message,
        options.metadata,
        track=options.track,
    )
    return Parcel(
        uuid(),
        address.task,
        [encode(message)],
        supervision,
        queue=address.queue,
        countdown_s=options.countdown_s,
        expires_s=options.expires_s,
        priority=options.priority,
    )


def to_task(app: Celery, signature: Signature, message: Message | None, options: SendOptions) -> Parcel:
    """The parcel that takes a Celery signature to its task.

    Raises:
        InvalidPolicy: the signature cannot be sent under supervision.
    """
    if message is not None:
        raise InvalidPolicy("message", message, "nothing, when a Celery signature is sent")
    if signature.task.startswith("celery."):
        allowed = "a task's own signature; send a chain, group or chord with Celery, its tasks are supervised"
        raise InvalidPolicy("recipient", signature, allowed)
    own = {name: value for name, value in signature.options.items() if value is not None}
    refused = sorted(set(own) - {"task_id", "queue", "countdown", "expires", "priority"})
    if refused:
        allowed = "task_id, queue, countdown, expires, priority; send callbacks with Celery"
        raise InvalidPolicy("signature options", refused, allowed)
    task = app.tasks.get(signature.task)
    if task is not None and not task.acks_late:
        raise InvalidPolicy("acks_late", False, f"True, for {signature.task} to be supervised")
    countdown_s = seconds("countdown", own.get("countdown"))
    expires_s = seconds("expires", own.get("expires"))
    priority = urgency(own.get("priority"))
    return Parcel(
        own.get("task_id") or uuid(),
        signature.task,
        signature.args,
        Supervision(
            options.retry or Retry(),
            options.on_error or OnError.DEAD_LETTER,
            "",
            signature.task,
            options.metadata,
            track=options.track,
        ),
        signature.kwargs,
        queue=own.get("queue"),
        countdown_s=countdown_s if options.countdown_s is None else options.countdown_s,
        expires_s=expires_s if options.expires_s is None else options.expires_s,
        priority=priority if options.priority is None else options.priority,
    )
