"""Publishing without what Celery and kombu work out anew for every message, where the answer is always the same.

Of a raw ``apply_async`` on our transport, three quarters is spent on settings, routing, copies of queues, pools and
shapes of messages that do not change from one send to the next (see docs/performance.md). Here Celery writes a message
once per task and queue (see form.py), and each send fills in its blanks.

Where somebody has a say in a single message (a signal's receiver, a router, ``task-sent`` events, a result backend,
compression, a serializer of one's own, a countdown) it goes through Celery as ever; so does what fails here, since
Celery knows how to try again.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from celery import Celery, signals
from kombu import Producer, Queue
from kombu.exceptions import OperationalError
from kombu.serialization import registry
from kombu.utils.json import dumps as kombu_dumps
from redis.exceptions import RedisError

from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.sending.celery_sends import SendTask
from orchestrator.sending.masked_amqp import MaskingAMQP
from orchestrator.sending.message_template import MessageTemplate, encode, write_template
from orchestrator.sending.publish import OutgoingMessage, queue_name
from orchestrator.transport.producer_batch import open_batch
from orchestrator.transport.publishing import PublishingChannel

_SEND_TASK: Final = Celery.send_task


class PublishChannel:
    """A channel of our own, and the mailboxes it has declared."""

    def __init__(self, app: Celery) -> None:
        # Not connection.channel(), which tries again after a pause; Celery will, and with the user's policy.
        self.connection = app.connection_for_write()
        transport = self.connection.transport
        self.channel: PublishingChannel = transport.create_channel(transport)
        self._declared: set[str] = set()

    def declare(self, queue: Queue) -> None:
        if queue.name not in self._declared:
            queue(self.channel).declare()
            self._declared.add(queue.name)

    def form(
        self, app: Celery, parcel: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]
    ) -> MessageTemplate | None:
        with open_batch(Producer(self.channel, auto_declare=False)) as batch:
            return write_template(app, parcel, headers, reprs, batch)

    def close(self) -> None:
        self.connection.collect()


class FastPublisher:
    """Publishes for one app. Safe for several threads, each of which has a channel while it publishes."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._begin()
        self._limit = app.conf.broker_pool_limit or 0
        self._usable = (
            type(app.amqp) is MaskingAMQP
            and app.conf.task_protocol == 2
            and registry._encoders["json"].encoder is kombu_dumps
        )

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._forms: dict[tuple[str, str], tuple[Any, MessageTemplate | None, Queue]] = {}
        self._idle: deque[PublishChannel] = deque()
        self._made = 0
        self._lock = threading.Lock()

    # -- one message

    def publish(self, parcel: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]) -> bool:
        """Publish, or say ``False``: then it is Celery's to do.

        Raises:
            redis.exceptions.RedisError: Redis did not take it, and the app's settings say not to try again.
            MailboxFull, CircuitOpen: flow control did not.
        """
        if not self._nobody_has_a_say(parcel):
            return False
        if self._pid != os.getpid():
            # A fork: the parent's channels are not ours to use, and its name is not our origin.
            self._begin()
        line = self._take()
        if line is None:
            return False
        try:
            done = self._publish(line, parcel, headers, reprs)
        except (RedisError, OperationalError, OSError):
            self._drop(line)
            if self._app.conf.task_publish_retry:
                return False
            raise
        except (MailboxFull, CircuitOpen):
            self._idle.append(line)
            raise
        except BaseException:
            self._drop(line)
            raise
        self._idle.append(line)
        if done and (current := self._app.current_worker_task):
            current.add_trail(self._app.AsyncResult(parcel.id))
        return done

    def _nobody_has_a_say(self, parcel: OutgoingMessage) -> bool:
        app = self._app
        return bool(
            self._usable
            and not parcel.countdown_s
            and parcel.expires_s is None
            and parcel.supervision.idempotency is None
            and not parcel.link
            and not parcel.link_error
            # Only where Celery's result backend has no part in it.
            and (parcel.supervision.agent or getattr(app._tasks.get(parcel.task), "ignore_result", False))
            and not signals.before_task_publish.receivers
            and not signals.after_task_publish.receivers
            and not signals.task_sent.receivers
            and not app.conf.task_send_sent_event
            and not app.amqp.routes
            and not parcel.options
            and type(app).send_task is _SEND_TASK
            and isinstance(vars(app).get("send_task"), SendTask | None)
            and not (app.conf.task_inherit_parent_priority and app.current_worker_task)
        )

    def _publish(
        self, line: PublishChannel, parcel: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]
    ) -> bool:
        form, queue = self._form(line, parcel, headers, reprs)
        if form is None or not form.lasting:
            return False
        try:
            body = form.body(encode(list(parcel.args)).encode(), encode(dict(parcel.kwargs)).encode())
            own = encode(headers)[1:-1]
        except (TypeError, ValueError, RecursionError):
            # Celery says what is wrong.
            return False
        id_ = encode(parcel.id)
        current = self._app.current_worker_task
        priority = form.values["priority"] if parcel.priority is None else str(parcel.priority)
        message = form.render(
            id=id_,
            root=encode(current.request.root_id or current.request.id) if current else id_,
            parent=encode(current.request.id) if current else "null",
            body=body,
            args=encode(reprs[0]),
            kwargs=encode(reprs[1]),
            reply_to=encode(self._app.thread_oid),
            priority=priority,
            own=own,
        )
        line.declare(queue)
        line.channel.accept(queue.name, line.channel.step(int(priority)), message, (queue.name, parcel.id, 0))
        return True

    def _form(
        self, line: PublishChannel, parcel: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]
    ) -> tuple[MessageTemplate | None, Queue]:
        task = self._app._tasks.get(parcel.task)
        key = (parcel.task, queue_name(parcel))
        known = self._forms.get(key)
        if known is None or known[0] is not task:
            # What is kept for others must not have what this one says for itself.
            form = line.form(self._app, replace(parcel, priority=None), headers, reprs)
            queue = parcel.queue
            if form is not None and not isinstance(queue, Queue):
                queue = self._app.amqp.queues[json.loads(form.values["queue"])]
            known = self._forms[key] = task, form, queue
        return known[1:]

    # -- channels

    def _take(self) -> PublishChannel | None:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._lock:
            if self._made >= self._limit:
                return None
            self._made += 1
        try:
            return PublishChannel(self._app)
        except (RedisError, OperationalError, OSError):
            with self._lock:
                self._made -= 1
            return None

    def _drop(self, line: PublishChannel) -> None:
        with self._lock:
            self._made -= 1
        line.close()
