"""The events of sends: started, sent, repeated, failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from orchestrator.sending.backend import SendResult
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events, has_handlers


def emit_started(message: OutgoingMessage) -> None:
    """A send begins."""
    s = message.supervision
    emit(events.SEND_STARTED, agent=s.agent, message=s.message, id=message.id)


def emit_sent(message: OutgoingMessage, sent: SendResult, took_s: float) -> None:
    """A message was published, or its idempotency key was taken."""
    s = message.supervision
    emit(
        # If its task's class has chosen the id, another id does not mean that the send was repeated.
        events.SENT if sent.id == message.id or sent.place is not None else events.REPEATED,
        {"duration_s": took_s},
        agent=s.agent,
        message=s.message,
        id=sent.id,
    )


def emit_failed(message: OutgoingMessage, error: Exception, took_s: float) -> None:
    """A message was not published."""
    s, name = message.supervision, type(error).__name__
    emit(events.SEND_FAILED, {"duration_s": took_s}, agent=s.agent, message=s.message, id=message.id, error=name)


@contextmanager
def events_of_many(messages: Sequence[OutgoingMessage]) -> Iterator[None]:
    """Emit the events of many sends at once. The duration of each is that of all together."""
    if has_handlers(events.SEND_STARTED):
        for message in messages:
            emit_started(message)
    began = monotonic()
    accepted = 0
    try:
        yield
        accepted = len(messages)
    except Exception as error:
        accepted = getattr(error, "accepted", 0)
        for message in messages[accepted:]:
            emit_failed(message, error, monotonic() - began)
        raise
    finally:
        took_s = monotonic() - began
        for message in messages[:accepted] if has_handlers(events.SENT) else ():
            s = message.supervision
            emit(events.SENT, {"duration_s": took_s}, agent=s.agent, message=s.message, id=message.id)
