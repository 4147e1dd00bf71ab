"""Publishing without what Celery and kombu compute for every message though the result is always the same.

Of a raw ``apply_async`` on our transport, three quarters is spent on settings, routing, copies of queues, pools and
shapes of messages that do not change from one send to the next (see docs/performance.md). Here Celery writes a message
once per task and queue (see message_template.py), and each send fills in the placeholders.

Celery publishes a message that something may change or observe (a signal's receiver, a router, ``task-sent`` events, a
result backend, compression, another serializer, a countdown), and one that failed here, to retry it.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from celery import Celery, signals
from kombu import Producer, Queue
from kombu.exceptions import OperationalError
from kombu.serialization import registry
from kombu.utils.json import dumps as kombu_dumps
from redis.exceptions import RedisError

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import NotAccepted
from orchestrator.sending.celery_sends import SendTask
from orchestrator.sending.messages.masked_amqp import MaskingAMQP
from orchestrator.sending.messages.message_template import MessageTemplate, write_template
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.transport.admission.flow_control import UNCOUNTED
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import open_batch
from orchestrator.transport.publishing import PublishingChannel

_SEND_TASK: Final = Celery.send_task

#: The placeholders whose values are each message's own.
_OWN_PLACEHOLDERS: Final = ("id", "root", "parent", "body", "args", "kwargs", "reply_to", "priority", "own")


class PublishChannel:
    """A channel of our own, and the mailboxes it has declared."""

    def __init__(self, app: Celery) -> None:
        # Not connection.channel(), which retries after a pause; Celery retries with the user's policy.
        self.connection = app.connection_for_write()
        transport = self.connection.transport
        self.channel: PublishingChannel = transport.create_channel(transport)
        self._declared: set[str] = set()

    def declare(self, queue: Queue) -> None:
        if queue.name not in self._declared:
            queue(self.channel).declare()
            self._declared.add(queue.name)

    def template(
        self, app: Celery, message: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]
    ) -> MessageTemplate | None:
        with open_batch(Producer(self.channel, auto_declare=False)) as batch:
            return write_template(app, message, headers, reprs, batch)

    def close(self) -> None:
        self.connection.collect()


class FastPublisher:
    """Publishes for one app. Safe for several threads, each of which has a channel while it publishes."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._begin()
        self._limit = app.conf.broker_pool_limit or 0
        #: The settings when they were last asked whether Celery emits an event of each message, and what they said.
        self._asked_of: tuple[Any, int, Any] | None = None
        self._emits_sent = False
        self._usable = (
            type(app.amqp) is MaskingAMQP
            and app.conf.task_protocol == 2
            and registry._encoders["json"].encoder is kombu_dumps
        )

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._templates: dict[tuple[str, str], tuple[Any, MessageTemplate | None, Queue]] = {}
        #: By task, the supervision of the last message, and the text of its headers.
        self._own_texts: dict[str, tuple[Supervision, str]] = {}
        self._idle: deque[PublishChannel] = deque()
        self._made = 0
        self._lock = threading.Lock()

    # -- one message

    def publish(self, message: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]) -> bool:
        """Publish; returns false if Celery has to publish it.

        Raises:
            redis.exceptions.RedisError: Redis did not accept it, and the app's settings forbid retries.
            NotAccepted: Redis refused it, as :meth:`PublishingChannel.accept` says.
        """
        current = self._app.current_worker_task
        if not self._is_plain(message, current):
            return False
        if self._pid != os.getpid():
            # A fork: the parent's channels are not ours to use, and its name is not our origin.
            self._begin()
        channel = self._take()
        if channel is None:
            return False
        token = UNCOUNTED.set(self._uncounted)
        try:
            done = self._publish(channel, message, headers, reprs, current)
        except (RedisError, OperationalError, OSError):
            self._drop(channel)
            if self._app.conf.task_publish_retry:
                return False
            raise
        except NotAccepted:
            self._give_back(channel)
            raise
        except BaseException:
            self._drop(channel)
            raise
        finally:
            UNCOUNTED.reset(token)
        self._give_back(channel)
        if done and current:
            current.add_trail(self._app.AsyncResult(message.id))
        return done

    def _is_plain(self, message: OutgoingMessage, current: Any) -> bool:
        app = self._app
        return bool(
            self._usable
            and not message.countdown_s
            and message.expires_s is None
            and message.supervision.idempotency is None
            and not message.link
            and not message.link_error
            # Only where Celery's result backend has no part in it.
            and (message.supervision.agent or getattr(app._tasks.get(message.task), "ignore_result", False))
            and not signals.before_task_publish.receivers
            and not signals.after_task_publish.receivers
            and not signals.task_sent.receivers
            and not self._emits_task_sent()
            and not app.amqp.routes
            and not message.options
            and type(app).send_task is _SEND_TASK
            and isinstance(vars(app).get("send_task"), SendTask | None)
            and not (current and app.conf.task_inherit_parent_priority)
        )

    def _emits_task_sent(self) -> bool:
        """Whether Celery emits an event of each message; looked up anew when a setting has changed."""
        conf: Any = self._app.conf
        changes = conf.changes
        asked_of = (conf, len(changes), changes.get("task_send_sent_event")) if type(changes) is dict else None
        if asked_of is None or asked_of != self._asked_of:
            self._emits_sent = bool(conf.task_send_sent_event)
            self._asked_of = asked_of
        return self._emits_sent

    def _publish(
        self,
        channel: PublishChannel,
        message: OutgoingMessage,
        headers: Mapping[str, Any],
        reprs: tuple[str, str],
        current: Any,
    ) -> bool:
        template, queue = self._template(channel, message, headers, reprs)
        if template is None or not template.lasting:
            return False
        try:
            kwargs = encode(dict(message.kwargs)).encode() if message.kwargs else b"{}"
            body = template.body(encode(list(message.args)).encode(), kwargs)
            own = self._own_text(message, headers)
        except (TypeError, ValueError, RecursionError):
            # Celery raises the error.
            return False
        id_ = encode(message.id)
        priority = template.values["priority"] if message.priority is None else str(message.priority)
        text = template.text % {
            "id": id_,
            "root": encode(current.request.root_id or current.request.id) if current else id_,
            "parent": encode(current.request.id) if current else "null",
            "body": body,
            "args": encode(reprs[0]),
            "kwargs": encode(reprs[1]),
            "reply_to": encode(self._app.thread_oid),
            "priority": priority,
            "own": own,
        }
        channel.declare(queue)
        channel.channel.accept(queue.name, channel.channel.level(int(priority)), text, (queue.name, message.id, 0))
        return True

    def _own_text(self, message: OutgoingMessage, headers: Mapping[str, Any]) -> str:
        """The text of this library's headers. Messages that are sent without options share their supervision."""
        if len(headers) != 1:
            # With a trace.
            return encode(headers)[1:-1]
        known = self._own_texts.get(message.task)
        if known is None or known[0] is not message.supervision:
            known = self._own_texts[message.task] = message.supervision, encode(headers)[1:-1]
        return known[1]

    def _template(
        self, channel: PublishChannel, message: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str]
    ) -> tuple[MessageTemplate | None, Queue]:
        task = self._app._tasks.get(message.task)
        key = (message.task, queue_name(message))
        known = self._templates.get(key)
        if known is None or known[0] is not task:
            # The template is for all sends, so it must not have this send's priority.
            template = channel.template(self._app, replace(message, priority=None), headers, reprs)
            queue = message.queue
            if template is not None:
                if not isinstance(queue, Queue):
                    queue = self._app.amqp.queues[json.loads(template.values["queue"])]
                # What is the same in each message is filled in once.
                template = template.bind(*_OWN_PLACEHOLDERS)
            known = self._templates[key] = task, template, queue
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

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        with self._lock:
            self._made -= 1
        try:
            yield
        finally:
            with self._lock:
                self._made += 1

    def _give_back(self, channel: PublishChannel) -> None:
        if self._made > self._limit:
            # While it waited for room, others were opened.
            self._drop(channel)
        else:
            self._idle.append(channel)

    def _drop(self, channel: PublishChannel) -> None:
        with self._lock:
            self._made -= 1
        channel.close()
