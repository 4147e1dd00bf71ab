"""`send_many`: many messages to one agent in few round trips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from celery import Celery, signals
from pydantic_core import to_json

from orchestrator.core.errors import BrokerUnavailable, CircuitOpen, MailboxFull
from orchestrator.sending.message_template import MessageTemplate, encode, write_template
from orchestrator.sending.publish import (
    OutgoingMessage,
    headers_of,
    hidden_in,
    producer_of,
    publish,
    refusals,
    reprs_of,
    shown,
)
from orchestrator.transport.producer_batch import BatchPublishError, open_batch

#: Messages in one round trip. More would keep Redis from others for longer than a few milliseconds.
CHUNK: Final = 250

Writer = Callable[[Iterable[OutgoingMessage]], None]


def publish_many(app: Celery, parcels: Sequence[OutgoingMessage], hidden: tuple[str, ...]) -> None:
    """Publish parcels to one agent, in their order; all have the same options.

    While Redis takes one chunk the next is written.

    Raises:
        MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many.
        InvalidMessage: the arguments of one are not JSON data.
        BrokerUnavailable: Redis did not take it; of the last :data:`CHUNK`, what was accepted is unknown. Or no
            connection was free, and nothing was accepted.
    """
    done = 0
    with producer_of(app) as producer:
        try:
            with open_batch(producer, 2 * CHUNK) as batch:
                write = _one_by_one(app, hidden, batch) if _somebody_listens(app) else _alike(app, hidden, batch)
                for start in range(0, len(parcels), CHUNK):
                    write(parcels[start : start + CHUNK])
                    batch.state.session.receive()
                    done = start
                    batch.state.session.send()
                batch.flush()
        except BatchPublishError as error:
            raise _cause(app, error, done, len(parcels)) from error


def _somebody_listens(app: Celery) -> bool:
    """Whether Celery has something to tell, or to ask, about each single message."""
    return bool(
        signals.before_task_publish.receivers or signals.after_task_publish.receivers or app.conf.task_send_sent_event
    )


def _one_by_one(app: Celery, hidden: tuple[str, ...], batch: Any) -> Writer:
    def write(chunk: Iterable[OutgoingMessage]) -> None:
        for parcel in chunk:
            publish(app, parcel, hidden, producer=batch.producer)

    return write


def _alike(app: Celery, hidden: tuple[str, ...], batch: Any) -> Writer:
    forms: dict[str, MessageTemplate | None] = {}
    by_celery = _one_by_one(app, hidden, batch)

    def write(chunk: Iterable[OutgoingMessage]) -> None:
        for task, alike in groupby(chunk, lambda parcel: parcel.task):
            parcels = list(alike)
            if task not in forms:
                forms[task] = _form(app, parcels[0], hidden, batch)
            form = forms[task]
            if form is None:
                by_celery(parcels)
                continue
            names = hidden_in(parcels[0], hidden)
            messages = {parcel.id: _filled(form, parcel, names) for parcel in parcels}
            for call in form.calls(messages):
                batch.state.session.run(*call)

    return write


def _filled(form: MessageTemplate, parcel: OutgoingMessage, hidden: tuple[str, ...]) -> str:
    id_ = f'"{parcel.id}"'
    # A Message's fields are plain JSON data (see core/message.py), which pydantic writes quickest.
    args = to_json(parcel.args, inf_nan_mode="constants")
    return form.text % {
        "id": id_, "root": id_, "body": form.body(args), "args": encode(shown(parcel.args, hidden)),
    }  # fmt: skip


def _form(app: Celery, parcel: OutgoingMessage, hidden: tuple[str, ...], batch: Any) -> MessageTemplate | None:
    reprs = reprs_of(parcel, hidden)
    with refusals(app, parcel.task), headers_of(parcel) as headers:
        form = write_template(app, parcel, headers, reprs, batch)
    if form is None or not form.embed:
        return None
    # Sent from within a task, all have the same root.
    root = ("root",) if form.values["root"] == form.values["id"] else ()
    return form.bind("id", "body", "args", *root)


def _cause(app: Celery, error: BatchPublishError, done: int, requested: int) -> Exception:
    why = error.__cause__
    if isinstance(why, MailboxFull | CircuitOpen):
        why.accepted += done
        why.requested = requested
        return why
    with app.connection_for_write() as connection:
        return BrokerUnavailable(connection.as_uri(), why or error)
