"""Publishing without what Celery and kombu work out anew for every message, where the answer is always the same.

Of a raw ``apply_async`` on our transport, three quarters is spent on settings, routing, copies of queues, pools and
shapes of messages that do not change from one send to the next (see docs/performance.md). Here they are worked out
once per task and queue: by Celery itself, whose message with blanks in it is the form that each send fills in.

Where somebody has a say in a single message (a signal's receiver, a router, ``task-sent`` events, a result backend,
compression, a serializer of one's own, a countdown) it goes through Celery as ever; so does what fails here, since
Celery knows how to try again.
"""

from __future__ import annotations

import os
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, signals
from celery.app.amqp import AMQP
from kombu import Queue
from kombu.entity import maybe_delivery_mode
from kombu.exceptions import OperationalError
from kombu.serialization import registry
from kombu.utils.json import JSONEncoder
from kombu.utils.json import dumps as kombu_dumps
from redis.exceptions import RedisError

from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.transport.publishing import PublishingChannel

if TYPE_CHECKING:
    from orchestrator.sending.publish import Parcel

#: kombu makes one for each message.
_encode: Final = JSONEncoder().encode

#: Options of a task that a form has a place for; another one is for Celery to see to.
_FORM_OPTIONS: Final = frozenset({"time_limit", "soft_time_limit", "priority", "serializer"})

#: What differs from one message to the next.
_BLANKS: Final = ("id", "root_id", "parent_id", "argsrepr", "kwargsrepr")

_SEND_TASK: Final = Celery.send_task


@dataclass(frozen=True, slots=True)
class _Form:
    """All that messages of one task to one queue have in common."""

    task: Any
    queue: Queue
    priority: int
    headers: str
    embed: str
    properties: str


class _Line:
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

    def close(self) -> None:
        self.connection.collect()


class QuickPublisher:
    """Publishes for one app. Safe for several threads, each of which has a channel while it publishes."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._begin()
        conf = app.conf
        self._limit = conf.broker_pool_limit or 0
        self._usable = (
            type(app.amqp) is AMQP
            and conf.task_protocol == 2
            and conf.task_serializer == "json"
            and not conf.task_compression
            and registry._encoders["json"].encoder is kombu_dumps
        )

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._forms: dict[tuple[str, str], _Form | None] = {}
        self._idle: deque[_Line] = deque()
        self._made = 0
        self._lock = threading.Lock()

    # -- one message

    def publish(self, parcel: Parcel, headers: Mapping[str, Any], shown: tuple[str, str]) -> bool:
        """Publish, or say ``False``: then it is Celery's to do.

        Raises:
            redis.exceptions.RedisError: Redis did not take it, and the app's settings say not to try again.
            MailboxFull, CircuitOpen: flow control did not.
        """
        form = self._form(parcel)
        if form is None:
            return False
        message = self._filled_in(form, parcel, headers, shown)
        line = self._take() if message is not None else None
        if line is None or message is None:
            return False
        try:
            line.declare(form.queue)
            priority = form.priority if parcel.priority is None else parcel.priority
            line.channel.accept(form.queue.name, line.channel.step(priority), [message])
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
        if current := self._app.current_worker_task:
            current.add_trail(self._app.AsyncResult(parcel.id))
        return True

    def _form(self, parcel: Parcel) -> _Form | None:
        if (
            not self._usable
            or parcel.countdown_s
            or parcel.expires_s is not None
            or parcel.supervision.once is not None
            or parcel.link
            or parcel.link_error
            or signals.before_task_publish.receivers
            or signals.after_task_publish.receivers
            or signals.task_sent.receivers
            or self._app.conf.task_send_sent_event
            or self._app.amqp.routes
            or type(self._app).send_task is not _SEND_TASK
            or "send_task" in vars(self._app)
        ):
            return None
        if self._pid != os.getpid():
            # A fork: the parent's channels are not ours to use, and its name is not our origin.
            self._begin()
        queue = parcel.queue
        name = queue.name if isinstance(queue, Queue) else queue or ""
        task = self._app._tasks.get(parcel.task)
        key = (parcel.task, name)
        form = self._forms.get(key)
        if form is None or form.task is not task:
            form = self._forms[key] = self._new_form(parcel, task)
        return form

    def _new_form(self, parcel: Parcel, task: Any) -> _Form | None:
        app = self._app
        # Only where Celery's result backend has no part in it.
        if not parcel.supervision.agent and not (task is not None and task.ignore_result):
            return None
        own = {} if task is None else {k: v for k, v in task._get_exec_options().items() if v is not None}
        if set(own) - _FORM_OPTIONS or own.get("serializer", "json") != "json":
            return None
        queue = parcel.queue
        if not isinstance(queue, Queue):
            queue = app.amqp.queues[queue] if queue else app.amqp.default_queue
        if queue.exchange is None or queue.exchange.type != "direct":
            return None
        limits = {name: own[name] for name in ("time_limit", "soft_time_limit") if name in own}
        message = app.amqp.as_task_v2("-", parcel.task, argsrepr="-", kwargsrepr="-", ignore_result=True, **limits)
        constant = {name: value for name, value in message.headers.items() if name not in _BLANKS}
        mode = queue.exchange.delivery_mode or app.conf.task_default_delivery_mode
        properties = {
            "delivery_mode": maybe_delivery_mode(mode),
            "delivery_info": {"exchange": "", "routing_key": queue.name},
            "body_encoding": "base64",
        }
        priority = own.get("priority")
        return _Form(
            task,
            queue,
            0 if priority is None else priority,
            _encode(constant)[1:-1],
            _encode(message.body[2]),
            _encode(properties)[1:-1],
        )

    def _filled_in(self, form: _Form, parcel: Parcel, headers: Mapping[str, Any], shown: tuple[str, str]) -> str | None:
        root, parent = parcel.id, None
        current = self._app.current_worker_task
        if current:
            if self._app.conf.task_inherit_parent_priority:
                return None
            root, parent = current.request.root_id or current.request.id, current.request.id
        try:
            body = f"[{_encode(list(parcel.args))}, {_encode(dict(parcel.kwargs))}, {form.embed}]"
            own = _encode(headers)[1:-1]
        except (TypeError, ValueError, RecursionError):
            # Celery says what is wrong.
            return None
        id_ = quoted(parcel.id)
        priority = form.priority if parcel.priority is None else parcel.priority
        return (
            f'{{"body": "{b64encode(body.encode()).decode()}", "content-encoding": "utf-8", '
            f'"content-type": "application/json", "headers": {{{form.headers}, "id": {id_}, '
            f'"root_id": {_encode(root)}, "parent_id": {_encode(parent)}, "argsrepr": {quoted(shown[0])}, '
            f'"kwargsrepr": {quoted(shown[1])}, {own}}}, "properties": {{"correlation_id": {id_}, '
            f'"reply_to": {quoted(self._app.thread_oid)}, "priority": {priority}, {form.properties}, '
            f'"delivery_tag": {id_}}}}}'
        )

    # -- channels

    def _take(self) -> _Line | None:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._lock:
            if self._made >= self._limit:
                return None
            self._made += 1
        try:
            return _Line(self._app)
        except (RedisError, OperationalError, OSError):
            with self._lock:
                self._made -= 1
            return None

    def _drop(self, line: _Line) -> None:
        with self._lock:
            self._made -= 1
        line.close()
