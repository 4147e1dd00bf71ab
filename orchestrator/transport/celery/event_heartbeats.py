"""Celery's events ``worker-online`` and ``worker-heartbeat`` over this transport: each is sent once.

Celery sends them in the thread of the event loop and has kombu retry without end or log line. While Redis is away, a
worker whose event came before it noticed a lost connection would not connect again, nor stop when told to. An event
that could not be sent is dropped: the next one comes in seconds, and the dispatcher would keep it until a reconnect.

Importing this changes Celery's ``Heart``.
"""

from __future__ import annotations

from typing import Any

from celery.worker.heartbeat import Heart

from orchestrator.transport.transport import Transport

_send_by_celery = Heart._send


def _send(heart: Any, event: str, retry: bool = True) -> Any:
    """As Celery's; on a connection that is ours it is neither retried nor kept."""
    dispatcher = heart.eventer
    if not retry or not _is_ours(getattr(dispatcher, "connection", None)):
        return _send_by_celery(heart, event, retry=retry)
    sent = _send_by_celery(heart, event, retry=False)
    # A dispatcher of the user's own may have neither.
    unsent, mutex = getattr(dispatcher, "_outbound_buffer", None), getattr(dispatcher, "mutex", None)
    if unsent is None or mutex is None:
        return sent
    with mutex:
        for entry in [entry for entry in unsent if entry[1] == event.replace("-", ".")]:
            unsent.remove(entry)
    return sent


def _is_ours(connection: Any) -> bool:
    return connection is not None and isinstance(connection.transport, Transport)


Heart._send = _send
