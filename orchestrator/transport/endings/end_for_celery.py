"""Ending a message for Celery: result backend, chord, chain, errbacks, signals, as Celery's own worker would."""

from __future__ import annotations

import base64
import builtins
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.exceptions import InvalidTaskError, NotRegistered, TaskRevokedError
from celery.utils.serialization import create_exception_cls
from kombu.compression import decompress
from kombu.serialization import loads, prepare_accept_content

from orchestrator.transport.endings.errors_in_backend import MessageDropped, PoisonMessage, SettlementFailed
from orchestrator.transport.endings.stream import EXPIRED, REVOKED, SUCCESS, Ending

_KNOWN: Final = {
    cls.__name__: cls
    for cls in (
        PoisonMessage,
        WorkerLostError,
        MessageDropped,
        SettlementFailed,
        InvalidTaskError,
        NotRegistered,
        TaskRevokedError,
    )
}


def end_for_celery(app: Celery, ending: Ending) -> None:
    """Store the end in the result backend, and call errbacks, chain and chord. Each call runs the errbacks again.

    Raises:
        Exception: the backend, the chord or an errback raised; the steps after it are not done.
    """
    request = request_of(app, ending)
    task = app.tasks.get(request.task)
    backend = app.backend if task is None else task.backend
    stores = not request.ignore_result or bool(getattr(task, "store_errors_even_if_ignored", False))
    stores = stores and not isinstance(backend, DisabledBackend)
    if stores and backend.get_task_meta(request.id, cache=False)["status"] == SUCCESS:
        # An execution stored its result before its worker was lost; errbacks would contradict that result.
        return
    if ending.state == SUCCESS:
        backend.mark_as_done(request.id, json.loads(ending.text), request, stores)
    elif ending.state == REVOKED:
        _revoke(backend, request, ending, stores)
        if task is not None:
            signals.task_revoked.send(
                sender=task, request=request, terminated=False, signum=None, expired=ending.error == EXPIRED
            )
    else:
        _fail(backend, task, request, ending, stores)


def _revoke(backend: Any, request: Any, ending: Ending, stores: bool) -> None:
    backend.mark_as_revoked(request.id, ending.text, request=request, store_result=stores)
    # Celery leaves the later tasks of a chain pending for ever.
    backend._fail_chain(
        getattr(request, "chain", None), TaskRevokedError(ending.text), store_result=stores, state=REVOKED
    )


def _fail(backend: Any, task: Any, request: Any, ending: Ending, stores: bool) -> None:
    error = error_of(ending)
    try:
        raise error
    except type(error):
        info = ExceptionInfo()
    backend.mark_as_failure(request.id, error, request=request, store_result=stores)
    if task is None:
        return
    task.request_stack.push(request)
    try:
        signals.task_failure.send(
            sender=task,
            task_id=request.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=error.__traceback__,
            einfo=info,
        )
    finally:
        task.request_stack.pop()


def error_of(ending: Ending) -> Exception:
    """The error that ended the message, as an instance."""
    cls = _KNOWN.get(ending.error) or getattr(builtins, ending.error, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        # UnicodeError, for one, needs more arguments than a text.
        with suppress(TypeError):
            return cls(ending.text)
    named: Exception = create_exception_cls(ending.error or "Exception", "celery.exceptions")(ending.text)
    return named


def request_of(app: Celery, ending: Ending) -> Any:
    """The message as ``Task.request`` would show it. Parts of the body that cannot be read are empty."""
    message = json.loads(ending.message)
    headers, properties = message["headers"], message.get("properties") or {}
    args, kwargs, embed = ((), {}, _end_of(message)) if ending.is_cut else _body_of(app, message)
    fields = {
        **headers,
        **embed,
        "args": args,
        "kwargs": kwargs,
        "delivery_info": properties.get("delivery_info") or {},
        "reply_to": properties.get("reply_to"),
        "correlation_id": properties.get("correlation_id"),
        "hostname": None,
        "is_eager": False,
        "called_directly": False,
    }
    task = app.tasks.get(headers["task"])
    if fields.get("ignore_result") is None:
        fields["ignore_result"] = bool(getattr(task, "ignore_result", False))
    return Context(fields)


def _body_of(app: Celery, message: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
    try:
        body: Any = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        if compression := message["headers"].get("compression"):
            body = decompress(body, compression)
        accept = prepare_accept_content(app.conf.accept_content)
        args, kwargs, embed = loads(body, message["content-type"], message["content-encoding"], accept=accept)
    except Exception:  # noqa: BLE001
        # The body may hold anything; the message ends all the same.
        return (), {}, {}
    return args, kwargs, embed if isinstance(embed, Mapping) else {}


def _end_of(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Callbacks, errbacks, chain and chord: the object that ends just before the bracket that ends the body."""
    try:
        text = base64.b64decode(message["body"]).decode("utf-8", "replace").rstrip()
    except Exception:  # noqa: BLE001
        return {}
    at = -1
    while (at := text.find('{"callbacks"', at + 1)) >= 0:
        with suppress(ValueError, RecursionError):
            embed, end = json.JSONDecoder().raw_decode(text, at)
            if text[end:] == "]":
                return dict(embed)
    return {}
