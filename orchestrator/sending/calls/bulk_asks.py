"""`Context.ask_many`: the requests of many asks to one agent in few round trips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from celery import Celery

from orchestrator.core.clock import to_ms
from orchestrator.sending.bulk import celery_observes_each, open_template, render
from orchestrator.sending.calls.reply_text import ReplyText
from orchestrator.sending.messages.message_template import MessageTemplate
from orchestrator.sending.messages.message_texts import hidden_in
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import library_errors, producer_of
from orchestrator.transport.admission.ask_record import SharedRecord
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.redis.commands import AskTexts
from orchestrator.transport.store import Store

#: Asks, and bytes of them, that one script accepts: it holds Redis for about three milliseconds.
_CHUNK: Final = 100
_CHUNK_BYTES: Final = 512 * 1024


def publish_asks(app: Celery, store: Store, requests: Sequence[OutgoingMessage], hidden: tuple[str, ...]) -> int:
    """Publish the requests of asks to one agent, in their order, as long as its mailbox admits all.

    Returns:
        How many were accepted. The others have to be published one by one.

    Raises:
        InvalidMessage: the arguments of one are not JSON data.
        MessageTooLarge: one is larger than it may be.
        BrokerUnavailable: Redis did not accept it. Of the last 100, whether they were accepted is unknown.
    """
    if celery_observes_each(app):
        return 0
    done = 0
    with library_errors(app, requests[0].task), producer_of(app) as producer:
        for _, alike in groupby(requests, key=lambda request: request.task):
            same = list(alike)
            first, replies = same[0], [request.ask.reply for request in same if request.ask and request.ask.reply]
            template = _template(app, first, hidden, producer, store)
            if template is None or first.ask is None or len(replies) < len(same):
                return done
            record = _shared_record(store, first.ask.timeout_s, replies[0])
            names, texts = hidden_in(first, hidden), ReplyText(app, replies[0])
            asks = (
                AskTexts(request.id, render(template, request.id, request.args, names), *texts.parts(reply))
                for request, reply in zip(same, replies, strict=True)
            )
            for chunk in _chunks(asks):
                if not producer.channel.accept_asks(queue_name(first), template.level, record, chunk):
                    return done
                done += len(chunk)
    return done


def _template(
    app: Celery, request: OutgoingMessage, hidden: tuple[str, ...], producer: Any, store: Store
) -> MessageTemplate | None:
    try:
        with open_batch(producer) as batch:
            template = open_template(app, request, hidden, batch)
    except BatchPublishError as error:
        raise store.failure(error.__cause__ or error) from error
    return template if template is not None and template.script == "publish" else None


def _shared_record(store: Store, timeout_s: float, reply: OutgoingMessage) -> SharedRecord:
    timeout_ms, outcome_ms = max(1, to_ms(timeout_s)), to_ms(store.options.outcome_ttl_s)
    level = store.level_of(reply.priority)
    return SharedRecord(timeout_ms, outcome_ms, reply.supervision.agent, queue_name(reply), level)


def _chunks(asks: Iterable[AskTexts]) -> Iterator[list[AskTexts]]:
    chunk: list[AskTexts] = []
    size = 0
    for ask in asks:
        weight = sum(map(len, ask))
        if chunk and (len(chunk) >= _CHUNK or size + weight > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(ask)
        size += weight
    if chunk:
        yield chunk
