"""``inspect scheduled``: lists the delayed messages in Redis in the form that Celery has for those in a worker.

Importing this replaces Celery's command.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.control import Panel, inspect_command
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu.exceptions import KombuError

from orchestrator.celery_types import Message, QueueConsumer
from orchestrator.core.deliveries.supervision import hide_in
from orchestrator.core.log import get_logger
from orchestrator.core.secrets.redact import redact
from orchestrator.transport.channel import Channel
from orchestrator.transport.mailbox_entry import MalformedEntry, decode
from orchestrator.transport.store import Store, open_store

logger = get_logger(__name__)

#: Tasks listed by one worker, the next to be due. A worker's timer has what was prefetched; Redis may have millions.
MOST = 1000

#: Most bytes of messages in one reply, which the asker reads whole.
_MOST_BYTES = 4 * 1024 * 1024

_PAGE = 100

#: What Celery's timer calls the priority of a task with an ``eta``; it has none of its own.
_TIMER_PRIORITY = 6

_in_memory = Panel.data["scheduled"]


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """List of currently scheduled ETA/countdown tasks."""
    known: list[dict[str, Any]] = _in_memory(state, **kwargs)
    consumer = state.consumer.task_consumer
    if not isinstance(consumer.channel, Channel):
        return known
    store = open_store(state.app.connection_for_read())
    try:
        waiting = sorted(_waiting(store, [queue.name for queue in consumer.queues]))[:MOST]
        return [*known, *(entry for at in waiting if (entry := _listed(state, consumer, *at)) is not None)]
    finally:
        store.pool.disconnect()


def _waiting(store: Store, queues: list[str]) -> Iterator[tuple[float, str, bytes]]:
    """The next of each queue: its due time in ms, its queue, and its bytes."""
    client: Any = store.client
    most_bytes = _MOST_BYTES // max(1, len(queues))
    for queue in queues:
        bodies, left = store.keys.delayed_bodies(queue), most_bytes
        for at in range(0, MOST, _PAGE):
            page = client.zrange(store.keys.delayed(queue), at, at + _PAGE - 1, withscores=True)
            with client.pipeline(transaction=False) as pipe:
                for member, _ in page:
                    pipe.hstrlen(bodies, member)
                sizes = pipe.execute() if page else []
            # A message too large for any reply does not hide those behind it.
            fits_alone = [(*one, size) for one, size in zip(page, sizes, strict=True) if 0 < size <= most_bytes]
            fitting = []
            for member, due_ms, size in fits_alone:
                if size > left:
                    break
                left -= size
                fitting.append((member, due_ms))
            raws = client.hmget(bodies, [member for member, _ in fitting]) if fitting else []
            yield from ((due_ms, queue, raw) for (_, due_ms), raw in zip(fitting, raws, strict=True) if raw)
            if len(page) < _PAGE or len(fitting) < len(fits_alone):
                break


def _listed(state: Any, consumer: QueueConsumer, due_ms: float, queue: str, raw: bytes) -> dict[str, Any] | None:
    """One entry as ``celery.worker.control`` lists it; ``None`` if it is no task, which shows when it is due."""
    try:
        payload = decode(raw, tag="", queue=queue, redelivered=False)
        message = consumer.channel.Message(payload, channel=consumer.channel)
        message.accept = consumer.accept
        request = _request(state.app, message, state.hostname)
    except (MalformedEntry, KombuError, InvalidTaskError, TypeError, ValueError, KeyError, AttributeError) as error:
        logger.debug("scheduled message of %s not listed: %s", queue, error)
        return None
    eta = request.eta or datetime.fromtimestamp(due_ms / 1000, UTC)
    hidden = (*consumer.channel.options.redact, *hide_in(message.headers))
    shown = request.info()
    shown.update({name: redact(shown[name], hidden) for name in ("args", "kwargs")})
    return {"eta": eta.isoformat(), "priority": _TIMER_PRIORITY, "request": shown}


def _request(app: Any, message: Message, hostname: str) -> Request:
    # As Celery's strategy makes one. The task may be one that this worker does not have.
    payload = message.payload
    if isinstance(payload, dict):
        convert = hybrid_to_proto2 if "args" in payload else proto1_to_proto2
        body, headers, decoded, utc = convert(message, payload)
    else:
        body, headers, decoded, utc = message.body, message.headers, False, app.uses_utc_timezone()
    return Request(
        message, app=app, hostname=hostname, task=app.Task, body=body, headers=headers, decoded=decoded, utc=utc
    )
