"""The texts of a distribution's items: Celery writes one of each kind, and the others are made from its text."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from celery import Celery

from orchestrator.coordination.distribution.backend import OutgoingItem
from orchestrator.core.errors import InvalidPolicy, MessageTooLarge
from orchestrator.sending.broadcast import kind_of
from orchestrator.sending.bulk import render
from orchestrator.sending.messages.message_template import MessageTemplate, around_agent, write_template
from orchestrator.sending.messages.message_texts import hidden_in, reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import headers_of, library_errors, producer_of
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.store import Store

#: Level, mailbox and message of an item.
Item = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Form:
    """The parts that the messages of one type for one agent have in common."""

    template: MessageTemplate
    queue: str
    hidden: tuple[str, ...]


def write_items(app: Celery, store: Store, items: Iterable[OutgoingItem], hidden: tuple[str, ...]) -> Iterator[Item]:
    """Write the messages of the items, one after the other.

    Raises:
        BrokerUnavailable: a mailbox could not be declared, or no connection was free.
        InvalidPolicy: an agent has no mailbox of its own.
        InvalidMessage: the arguments of one are not JSON data.
        MessageTooLarge: one is larger than a message may be.
    """
    limit = store.options.max_message_bytes
    try:
        with producer_of(app) as producer, open_batch(producer) as batch:
            writer = _Writer(app, hidden, batch)
            for item in items:
                written = writer.write(item)
                if limit and len(written[2]) > limit:
                    raise MessageTooLarge(len(written[2]), limit)
                yield written
    except BatchPublishError as error:
        raise store.failure(error) from error


class _Writer:
    def __init__(self, app: Celery, hidden: tuple[str, ...], batch: Any) -> None:
        self._app = app
        self._hidden = hidden
        self._batch = batch
        #: By what all messages of a kind have in common, its template and the parts of its headers around the agent.
        self._kinds: dict[Hashable, tuple[MessageTemplate, list[str]]] = {}
        #: By task; ``None`` if only Celery can write its messages.
        self._forms: dict[str, _Form | None] = {}

    def write(self, item: OutgoingItem) -> Item:
        task = item.like.task
        if task not in self._forms:
            self._forms[task] = self._form(item.message())
        form = self._forms[task]
        if form is None:
            template, _ = self._by_celery(item.message())
            return template.level, queue_name(item.like), template.render()
        return form.template.level, form.queue, render(form.template, item.id, item.args, form.hidden)

    def _form(self, message: OutgoingMessage) -> _Form | None:
        kind = kind_of(message)
        if kind not in self._kinds:
            self._kinds[kind] = self._by_celery(message)
        template, own = self._kinds[kind]
        if not template.embed:
            return None
        queue = queue_name(message)
        # Sent from within a task, all have the same root.
        root = ("root",) if template.values["root"] == template.values["id"] else ()
        bound = template.bind(
            "id", "body", "args", *root,
            own=encode(message.supervision.agent).join(own), task=encode(message.task), queue=encode(queue),
        )  # fmt: skip
        return _Form(bound, queue, hidden_in(message, self._hidden))

    def _by_celery(self, message: OutgoingMessage) -> tuple[MessageTemplate, list[str]]:
        reprs = reprs_of(message, self._hidden)
        with library_errors(self._app, message.task), headers_of(message) as headers:
            template = write_template(self._app, message, headers, reprs, self._batch)
            own = around_agent(headers)
        if template is None:
            raise InvalidPolicy("to", message.supervision.agent, "agents with one mailbox of their own")
        return template, own
