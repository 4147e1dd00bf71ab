"""Messages that are written now and sent by a script, perhaps much later, when their sender may be dead."""

from __future__ import annotations

from dataclasses import dataclass

from celery import Celery

from orchestrator.core.errors import InvalidPolicy
from orchestrator.sending.messages.message_template import write_template
from orchestrator.sending.messages.message_texts import reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import headers_of, library_errors, producer_of
from orchestrator.transport.producer_batch import open_batch


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """The text of a message, and where a script is to put it."""

    agent: str
    delivery: str
    queue: str
    level: str
    text: str


def record_message(
    app: Celery, message: OutgoingMessage, hidden: tuple[str, ...], option: str, allowed: str
) -> RecordedMessage:
    """Write a message without sending it. ``option`` and ``allowed`` are for the error.

    Raises:
        InvalidPolicy: it does not go to exactly one mailbox.
        InvalidMessage: its arguments are not JSON data.
        BrokerUnavailable: its mailbox could not be declared.
    """
    with (
        library_errors(app, message.task),
        headers_of(message) as headers,
        producer_of(app) as producer,
        open_batch(producer) as batch,
    ):
        template = write_template(app, message, headers, reprs_of(message, hidden), batch)
    if template is None:
        raise InvalidPolicy(option, message.task, allowed)
    agent = message.supervision.agent
    return RecordedMessage(agent, message.id, queue_name(message), template.level, template.render())
