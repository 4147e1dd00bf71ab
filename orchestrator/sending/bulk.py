"""`send_many`: many messages to one agent in few round trips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from celery import Celery, signals
from pydantic_core import to_json

from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.sending.messages.message_template import MessageTemplate, write_template
from orchestrator.sending.messages.message_texts import arguments_text, hidden_in, reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.publish import failure, headers_of, library_errors, producer_of, publish
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import BatchPublishError, open_batch

#: Messages in one round trip. More would hold Redis for longer than a few milliseconds.
CHUNK: Final = 250

Writer = Callable[[Iterable[OutgoingMessage]], None]


def publish_many(app: Celery, messages: Sequence[OutgoingMessage], hidden: tuple[str, ...]) -> None:
    """Publish messages to one agent, in their order; all have the same options.

    While Redis executes one chunk, the next is written.

    Raises:
        MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many.
        InvalidMessage: the arguments of one are not JSON data.
        BrokerUnavailable: Redis did not accept it; of the last :data:`CHUNK`, what was accepted is unknown. Or no
            connection was free, and nothing was accepted.
    """
    done = 0
    with producer_of(app) as producer:
        try:
            with open_batch(producer, 2 * CHUNK) as batch:
                make = _write_each if celery_observes_each(app) else _write_by_template
                write = make(app, hidden, batch)
                for start in range(0, len(messages), CHUNK):
                    write(messages[start : start + CHUNK])
                    batch.state.session.receive()
                    done = start
                    batch.state.session.send()
                batch.flush()
        except BatchPublishError as error:
            raise _cause(app, error, done, len(messages)) from error


def celery_observes_each(app: Celery) -> bool:
    """Whether a signal's receiver or an event needs Celery to publish each message by itself."""
    return bool(
        signals.before_task_publish.receivers or signals.after_task_publish.receivers or app.conf.task_send_sent_event
    )


def _write_each(app: Celery, hidden: tuple[str, ...], batch: Any) -> Writer:
    def write(chunk: Iterable[OutgoingMessage]) -> None:
        for message in chunk:
            publish(app, message, hidden, producer=batch.producer)

    return write


def _write_by_template(app: Celery, hidden: tuple[str, ...], batch: Any) -> Writer:
    templates: dict[str, MessageTemplate | None] = {}
    by_celery = _write_each(app, hidden, batch)

    def write(chunk: Iterable[OutgoingMessage]) -> None:
        for task, alike in groupby(chunk, lambda message: message.task):
            messages = list(alike)
            if task not in templates:
                templates[task] = open_template(app, messages[0], hidden, batch)
            template = templates[task]
            if template is None:
                by_celery(messages)
                continue
            names = hidden_in(messages[0], hidden)
            texts = {message.id: render(template, message.id, message.args, names) for message in messages}
            for call in template.calls(texts):
                batch.state.session.run(*call)

    return write


def render(template: MessageTemplate, id: str, arguments: Sequence[Any], hidden: tuple[str, ...]) -> str:
    """A message's text by a template in which the id, the root, the arguments and their text are open."""
    id_ = f'"{id}"'
    # A Message's fields are plain JSON data (see core/message.py), which pydantic writes quickest.
    args = to_json(arguments, inf_nan_mode="constants")
    return template.text % {
        "id": id_, "root": id_, "body": template.body(args), "args": encode(arguments_text(arguments, hidden)),
    }  # fmt: skip


def open_template(app: Celery, message: OutgoingMessage, hidden: tuple[str, ...], batch: Any) -> MessageTemplate | None:
    """The template of messages that differ from this one in id and arguments, for :func:`render`.

    ``None`` if only Celery can write them.
    """
    reprs = reprs_of(message, hidden)
    with library_errors(app, message.task), headers_of(message) as headers:
        template = write_template(app, message, headers, reprs, batch)
    if template is None or not template.embed:
        return None
    # Sent from within a task, all have the same root.
    root = ("root",) if template.values["root"] == template.values["id"] else ()
    return template.bind("id", "body", "args", *root)


def _cause(app: Celery, error: BatchPublishError, done: int, requested: int) -> Exception:
    why = error.__cause__
    if isinstance(why, MailboxFull | CircuitOpen):
        why.accepted += done
        why.requested = requested
        return why
    return failure(app, why or error)
