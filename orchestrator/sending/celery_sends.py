"""Supervises Celery's own sends: ``.delay()``, canvas, beat and ``app.send_task`` all end in ``Celery.send_task``.

Two things happen there. A message for an agent is addressed and supervised as one that the Orchestrator sends. And a
supervised send of a task, which goes through its class' ``apply_async``, gets its supervision, whatever that method did
to the headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

from celery import Celery, Task, states
from celery.result import EagerResult
from celery.utils.functional import maybe_list
from kombu.exceptions import OperationalError

from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.core.errors import BrokerUnavailable, InvalidPolicy
from orchestrator.sending.messages.message_texts import reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, own_headers
from orchestrator.sending.publish import TryFast, headers_of, library_errors, producer_of
from orchestrator.transport.admission.flow_control import DuplicateSend

_APPLY_ASYNC: Final = Task.apply_async
_SHADOW_NAME: Final = Task.shadow_name

#: Options of a send that name where its message goes.
_PLACES: Final = ("queue", "exchange", "routing_key")


#: Attribute of what is executed as a step of a run alone: how it is started.
STARTED_BY: Final = "__started_by__"


def refuse_outside_of_runs(recipient: Any, name: object) -> None:
    """Refuse to send what is executed as a step of a run alone: a workflow function, or its task.

    Raises:
        InvalidPolicy: it is one.
    """
    if how := getattr(recipient, STARTED_BY, ""):
        raise outside_of_runs(name, how)


def outside_of_runs(name: object, how: str) -> InvalidPolicy:
    """The error of a send of what is executed as a step of a run alone, and is started otherwise."""
    return InvalidPolicy("recipient", name, f"a task or an agent; this is a workflow function, {how}")


def has_own_way(task: Any) -> bool:
    """Whether a task's messages are not sent as Celery does: by its class, or by a wrapper around ``apply_async``."""
    cls = type(task)
    return (
        cls.apply_async is not _APPLY_ASYNC
        or cls.shadow_name is not _SHADOW_NAME
        or "apply_async" in vars(task)
        or hasattr(_APPLY_ASYNC, "__wrapped__")
    )


@dataclass
class TaskSend:
    """A supervised send while its task's ``apply_async`` runs, and its result."""

    message: OutgoingMessage
    headers: Mapping[str, Any]
    #: Whether what would be published is only recorded, to be executed in this process.
    inline: bool = False
    #: Whether it was published.
    published: bool = False
    id: str = ""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = None

    def record(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
        """Record that it was published, and how."""
        self.published = True
        self.id = str(options["task_id"])
        self.args, self.kwargs, self.options = list(args or ()), dict(kwargs or {}), dict(options)

    def place(self) -> dict[str, Any]:
        """The place that it was published to, as far as options named it."""
        return {name: self.options[name] for name in _PLACES if self.options.get(name) is not None}


_current: ContextVar[TaskSend | None] = ContextVar("orchestrator_task_send", default=None)


def _expected(task: str) -> TaskSend | None:
    send = _current.get()
    return send if send is not None and send.message.task == task and not send.published else None


def send_by_task(task: Any, send: TaskSend) -> None:
    """Send as a task's own class does; that may publish it later, or not at all.

    Raises:
        Exception: what the class' ``apply_async`` raises. What publishing raised is the send's ``error``.
    """
    message = send.message
    given = {
        "queue": message.queue,
        "priority": message.priority,
        "countdown": message.countdown_s,
        "expires": message.expires_s,
        "link": list(message.link) or None,
        "link_error": list(message.link_error) or None,
    }
    options = {**message.options, **{name: value for name, value in given.items() if value is not None}}
    options["headers"] = {**own_headers(message), **send.headers}
    token = _current.set(send)
    try:
        task.apply_async(list(message.args), dict(message.kwargs), task_id=message.id, **options)
    finally:
        _current.reset(token)


def as_published(message: OutgoingMessage, send: TaskSend) -> OutgoingMessage:
    """The message as its task's own class would have published it."""
    options = send.options
    return replace(
        message,
        id=send.id,
        args=send.args,
        kwargs=send.kwargs,
        queue=options.get("queue") or message.queue,
        link=maybe_list(options.get("link")) or (),
        link_error=maybe_list(options.get("link_error")) or (),
        options={**message.options, "headers": options.get("headers") or {}},
    )


def publish_task(
    app: Celery, task: Any, message: OutgoingMessage, hidden: tuple[str, ...], try_fast: TryFast
) -> TaskSend | None:
    """Publish a message for a task of this app, as its class does; ``None`` if it was published by ``try_fast``.

    Raises:
        BrokerUnavailable, InvalidMessage: as :func:`orchestrator.sending.publish.publish`.
        TypeError: the arguments do not fit the task's signature.
        Exception: what the class' own ``apply_async`` raises.
    """
    with headers_of(message) as headers:
        if not has_own_way(task):
            check_arguments(task, message.args, message.kwargs)
            with library_errors(app, message.task):
                if try_fast(message, headers, reprs_of(message, hidden)):
                    return None
        send = TaskSend(message, headers)
        try:
            send_by_task(task, send)
        except Exception as error:
            if error is not send.error:
                raise
            with library_errors(app, message.task):
                raise
    return send


def check_arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check arguments by a task's signature, as ``.delay()`` does.

    Raises:
        TypeError: they do not fit.
    """
    check = getattr(task, "__header__", None) if task.typing else None
    if check is not None:
        check(*args, **kwargs)


class SendTask:
    """The ``send_task`` of an app that has an Orchestrator; ``celery`` is the one that it was before."""

    def __init__(
        self, app: Celery, build_agent_message: Callable[[str, dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        self.celery: Callable[..., Any] = app.send_task
        self._app = app
        self._to_agent = build_agent_message

    def __call__(self, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """Publish. Celery sends what is neither for an agent nor a supervised send of a task.

        Raises:
            InvalidPolicy: it is a workflow function's task.
            kombu.exceptions.OperationalError: the broker is away; names it, without its password.
        """
        send = _expected(name)
        if send is not None and send.inline:
            send.record(args, kwargs, {**options, "task_id": options.get("task_id") or send.message.id})
            return self._app.AsyncResult(send.id)
        if send is not None:
            return self._supervised(send, name, args, kwargs, more, options)
        if HEADER in (options.get("headers") or {}):
            try:
                return self.celery(name, args, kwargs, *more, **options)
            except DuplicateSend as duplicate:
                # A supervised send that its task's class has delayed; no sender waits for it any more.
                return self._app.AsyncResult(duplicate.first_id)
        refuse_outside_of_runs(self._app._tasks.get(name), name)
        options = self._to_agent(name, options) or options
        try:
            return self.celery(name, args, kwargs, *more, **options)
        except OperationalError as error:
            if error.__cause__ is None or options.get("producer") or options.get("publisher"):
                raise
            connection = options.get("connection") or self._app.connection_for_write()
            # Its chain is 160 lines of kombu's and redis-py's.
            raise OperationalError(str(BrokerUnavailable(connection.as_uri(), error))) from None

    def _supervised(self, send: TaskSend, name: str, args: Any, kwargs: Any, more: Any, options: dict[str, Any]) -> Any:
        options["headers"] = {**(options.get("headers") or {}), **send.headers}
        options["task_id"] = options.get("task_id") or send.message.id
        has_one = any(options.get(name) for name in ("producer", "publisher", "connection"))
        try:
            with nullcontext() if has_one else producer_of(self._app) as mine:
                if not has_one:
                    options["producer"] = mine
                result = self.celery(name, args, kwargs, *more, **options)
        except Exception as error:
            send.error = error
            raise
        send.record(args, kwargs, options)
        return result


def capture_apply(task: Any, apply: Callable[..., Any]) -> Callable[..., Any]:
    """``Task.apply``, where ``apply_async`` ends in eager mode, for sends whose attempts are made elsewhere."""

    def apply_or_record(args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        send = _expected(task.name)
        if send is None or not send.inline:
            return apply(args, kwargs, *more, **options)
        options["task_id"] = options.get("task_id") or send.message.id
        send.record(args, kwargs, options)
        return EagerResult(send.id, None, states.PENDING, name=task.name)

    return apply_or_record
