"""The short way of a supervised message through a worker whose pool runs it in this very process (solo, threads).

Of what a no-op costs a Celery worker, most is spent on asking what nobody here has: receivers of signals, events, a
rate limit, callbacks, a result backend, an ``eta``; and on reading body and supervision twice. Here that is asked once
per task, or by looking whether a list is empty, and the message is read once.

Only a success ends here. Where somebody has a say, or anything about a message is uncommon, it takes Celery's way from
the start; so does every failure, with the error that the handler has raised: Celery's tracer is told of it as if it
had called the handler itself (see ``HANDLER_ERROR`` in own_fields.py).
"""

from __future__ import annotations

import logging
import weakref
from functools import cached_property
from time import monotonic, time
from typing import Any, Final

from celery import signals
from celery._state import _task_stack
from celery.app import trace as celery_trace
from celery.app.task import Context, Task
from celery.backends.base import Backend
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.loaders.base import BaseLoader
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker import strategy as celery_strategy
from kombu.utils.encoding import safe_repr
from vine import promise

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.core.text import is_text
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.celery.own_fields import FENCE, HANDLER_ERROR, INCARNATION, KEPT
from orchestrator.transport.celery.reporting_pool import is_exit
from orchestrator.transport.celery.tracked_request import TrackedRequest
from orchestrator.transport.mailbox_entry import plain_loads
from orchestrator.worker import results
from orchestrator.worker.attempts import has_own
from orchestrator.worker.execution import as_json, check_ran, run_attempt
from orchestrator.worker.fencing_token import fence_at
from orchestrator.worker.hosting import REQUEST
from orchestrator.worker.supervised_request import SupervisedRequest
from orchestrator.worker.unmodified_celery import is_unmodified

_LISTENED: Final = tuple(
    getattr(signals, name).receivers for name in ("task_received", "task_prerun", "task_success", "task_postrun")
)

#: Hooks of a task class that Celery's tracer calls around a success.
_HOOKS: Final = ("before_start", "on_success", "after_return")

#: Headers that are texts, if anything.
_TEXTS: Final = ("root_id", "parent_id", "group")

#: Headers that a message on the short way has not.
_UNCOMMON: Final = ("eta", "expires", "stamps", "stamped_headers", "compression")


class TaskFastPath:
    """What holds for every message of one task, on one connection."""

    def __init__(self, consumer: Any, task: Any) -> None:
        self.consumer = consumer
        self.app = consumer.app
        self.task = task
        self.handle = task.__handle__
        self.hostname = consumer.hostname
        self.says_success = celery_trace.logger.isEnabledFor(logging.INFO)
        self.eventer = consumer.event_dispatcher
        self.connection_errors = consumer.connection_errors
        self.push_request = task.request_stack.push


class FastPath:
    """Takes a consumer's messages, those that it can."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._lanes: dict[str, TaskFastPath | None] = {}
        self._says_received = celery_strategy.logger.isEnabledFor(logging.INFO)
        self._open = (
            type(consumer.pool) in (SoloPool, ThreadPool)
            and not consumer.app.conf.worker_deduplicate_successful_tasks
            and getattr(consumer.app.loader.on_task_init, "__func__", None) is BaseLoader.on_task_init
            and getattr(consumer.app.loader.on_process_cleanup, "__func__", None) is BaseLoader.on_process_cleanup
        )

    def take(self, message: Any) -> bool:
        """Have the message executed, or say that it is Celery's to do."""
        if not self._open or any(_LISTENED):
            return False
        headers = message.headers
        if message.eta_waited:
            return False
        name = headers.get("task")
        try:
            lane = self._lanes[name]
        except KeyError:
            lane = self._lanes[name] = self._lane(name)
        except TypeError:
            return False
        if lane is None or self._is_busy(name):
            return False
        supervision = _supervision_in(headers)
        if supervision is None or headers["id"] in state.revoked:
            return False
        if headers.get("ignore_result", lane.task.ignore_result) is not True:
            return False
        body = _body_of(message)
        if body is None:
            return False
        request = FastPathRequest(message, lane, body, supervision)
        if self._says_received:
            said = {
                "id": request.id,
                "name": request.name,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
                "eta": None,
            }
            celery_strategy.logger.info(celery_trace.LOG_RECEIVED, said, extra={"data": said})
        state.task_reserved(request)
        self._consumer.on_task_request(request)
        return True

    def _lane(self, name: Any) -> TaskFastPath | None:
        consumer = self._consumer
        task = consumer.app.tasks.get(name) if name in consumer.strategies else None
        usual = (
            task is not None
            and task.Request == REQUEST
            and task.Strategy == Task.Strategy
            and task.acks_late
            and is_unmodified(task, consumer.strategies[name])
            and not any(has_own(type(task), hook) for hook in _HOOKS)
            and type(task.backend).process_cleanup is Backend.process_cleanup
        )
        return TaskFastPath(consumer, task) if usual else None

    def _is_busy(self, name: str) -> Any:
        """Whether Celery has more to do for messages of this task, at present."""
        consumer = self._consumer
        return (
            _tells_of_tasks(consumer.event_dispatcher)
            or consumer.on_task_message
            or (not consumer.disable_rate_limits and consumer.task_buckets[name])
            or (not consumer._maximum_prefetch_restored and consumer.restart_count > 0)
        )


def _tells_of_tasks(eventer: Any) -> bool:
    """Whether events of tasks are on; those of workers alone nearly always are."""
    return bool(eventer and eventer.enabled and (not eventer.groups or "task" in eventer.groups))


def _supervision_in(headers: dict[str, Any]) -> Supervision | None:
    """How the message is supervised, if that and all else is as most messages have it."""
    delivery, retries = headers.get("id"), headers.get("retries")
    if not delivery or not is_text(delivery) or type(retries) is not int or retries < 0:
        return None
    for name in _TEXTS:
        value = headers.get(name)
        if value is not None and not is_text(value):
            return None
    for name in _UNCOMMON:
        if headers.get(name):
            return None
    limits = headers.get("timelimit")
    if limits != [None, None]:
        return None
    try:
        return Supervision.from_wire(headers[HEADER])
    except (KeyError, InvalidPolicy):
        return None


def _body_of(message: Any) -> list[Any] | None:
    """Arguments, keyword arguments and what belongs to them, if nothing is to follow a success."""
    raw, accept = message.body, message.accept
    if (
        message.content_type != "application/json"
        or message.content_encoding != "utf-8"
        or type(raw) is not bytes
        # A value of a type that kombu knows how to read.
        or b'"__type__"' in raw
        or (accept is not None and "application/json" not in accept)
    ):
        return None
    try:
        body = plain_loads(raw)
        args, kwargs, embed = body
    except (ValueError, TypeError, RecursionError):
        return None
    if type(args) is not list or type(kwargs) is not dict or type(embed) is not dict:
        return None
    if embed.get("callbacks") or embed.get("chain") or embed.get("chord"):
        return None
    whole: list[Any] = body
    return whole


class FastPathContext(Context):
    """Celery's ``Task.request``, of a message on the short way."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__ = fields

    @cached_property
    def headers(self) -> dict[str, Any] | None:
        """What the message's headers hold besides Celery's own, worked out for who asks."""
        found: dict[str, Any] | None = self._get_custom_headers(vars(self))
        return found


class _Done:
    """A handler has returned."""

    __slots__ = ("kept", "result", "runtime_s")

    def __init__(self, result: Any, kept: Any, runtime_s: float) -> None:
        self.result = result
        self.kept = kept
        self.runtime_s = runtime_s


class FastPathRequest(SupervisedRequest):
    """A request whose message has been read and found to be like most."""

    _known: Supervision

    def __init__(self, message: Any, lane: TaskFastPath, body: list[Any], supervision: Supervision) -> None:
        """Sets what Celery's own sets, from what is known already."""
        headers, properties = message.headers, message.properties
        info = message.delivery_info
        self._lane = lane
        self._known = supervision
        self._message = message
        self._app = lane.app
        self._task = lane.task
        self._body = message.body
        self._Request__payload = body
        self._args, self._kwargs, _ = body
        self._utc = True
        self._decoded = False
        self._content_type, self._content_encoding = message.content_type, message.content_encoding
        self.id = headers["id"]
        self._type = self.name = headers["task"]
        self.name = headers.get("shadow") or self.name
        self._root_id, self._parent_id = headers.get("root_id"), headers.get("parent_id")
        self.time_limits = headers["timelimit"]
        self._argsrepr, self._kwargsrepr = headers.get("argsrepr", ""), headers.get("kwargsrepr", "")
        self._hostname = lane.hostname
        self._eventer = lane.eventer
        self._connection_errors = lane.connection_errors
        self._ignore_result = True
        self._eta = self._expires = None
        self._delivery_info = {
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": info.get("redelivered", False),
        }
        self._request_dict = {
            **headers,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "hostname": lane.hostname,
            "delivery_info": self._delivery_info,
            "args": self._args,
            "kwargs": self._kwargs,
            FENCE: fence_at(message.delivery_tag),
        }
        self.note_reserved()

    def __getattr__(self, name: str) -> Any:
        """Celery's way to acknowledge or reject, which most never need."""
        if name not in ("_on_ack", "_on_reject"):
            raise AttributeError(name)
        consumer, message = self._lane.consumer, self._message
        act = message.ack_log_error if name == "_on_ack" else message.reject_log_error
        made = promise(
            consumer.call_soon_ack, (act,), on_error=consumer._restore_prefetch_count_after_connection_restart
        )
        setattr(self, name, made)
        return made

    def submit(self, pool: Any, **kwargs: Any) -> Any:
        """Hand the message to the pool; that it is not revoked was seen a moment ago."""
        guarded = self.hand_to(pool)
        channel = channel_of(self._message)
        if channel is not None:
            self._request_dict[INCARNATION] = channel.incarnation
        result = guarded.submit(
            _run,
            (self,),
            accept_callback=self.on_accepted,
            callback=self.on_success,
            error_callback=self.on_failure,
            correlation_id=self.id,
        )
        self._apply_result = None if result is None else weakref.ref(result)
        return result

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """The handler returned, or Celery's tracer has been told that it raised."""
        answer = failed__retval__runtime
        if not isinstance(answer, _Done):
            return super().on_success(answer, **kwargs)
        if self._open():
            self._returned = True
            self._handled(answer.kept, answer.runtime_s)
            self._resolved()
        if not self.acknowledged or _tells_of_tasks(self._eventer):
            shown = saferepr(answer.result, self._task.resultrepr_maxsize)
            return TrackedRequest.on_success(self, (0, shown, answer.runtime_s))
        state.task_ready(self)
        return None

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A thread starts on this task."""
        if _tells_of_tasks(self._eventer) or self._terminate_on_ack is not None:
            super().on_accepted(pid, time_accepted)
            return
        self.worker_pid = pid
        self.time_start = time() - (monotonic() - time_accepted)
        # As ``state.task_accepted``, but for noting the request again, and a look at what kind of mapping is added.
        state.active_requests.add(self)
        state.total_count[self.name] += 1
        state.all_total_count[0] += 1
        self.mark_started()

    def run(self) -> Any:
        """Call the handler."""
        lane, task = self._lane, self._task
        context = FastPathContext(
            {
                **self._request_dict,
                **self._Request__payload[2],
                "is_eager": False,
                "called_directly": False,
                "_protected": 1,
                KEPT: (self._request_dict[HEADER], self._known),
            }
        )
        began = monotonic()
        tasks, requests = _task_stack.push(task), lane.push_request(context)
        failed: BaseException | None = None
        try:
            result = run_attempt(task.name, lane.handle, self._args, self._kwargs, context, self._known)
            check_ran(task.name, result)
            kept = as_json(task.name, result) if self._known.track else None
        except BaseException as error:  # noqa: BLE001
            failed = error
        finally:
            _pop(_task_stack, tasks)
            _pop(task.request_stack, requests)
        if failed is not None:
            return self._failed_with(failed)
        runtime_s = monotonic() - began
        if lane.says_success:
            self._say_success(result, runtime_s)
        return _Done(result, kept, runtime_s)

    def _say_success(self, result: Any, runtime_s: float) -> None:
        said = {
            "id": self.id,
            "name": self.name,
            "return_value": saferepr(result, self._task.resultrepr_maxsize),
            "runtime": runtime_s,
            "args": self._argsrepr or safe_repr(self._args),
            "kwargs": self._kwargsrepr or safe_repr(self._kwargs),
        }
        celery_trace.info(celery_trace.LOG_SUCCESS, said)

    def _failed_with(self, error: BaseException) -> Any:
        """Have Celery's tracer deal with what the handler raised."""
        self._request_dict[HANDLER_ERROR] = error
        try:
            trace = results.fast_trace if self._app.use_fast_trace_task else results.trace
            return trace(
                self._type, self.id, self._request_dict, self._body, self._content_type, self._content_encoding
            )
        finally:
            # The error's traceback holds this frame, and this frame the error.
            self._request_dict.pop(HANDLER_ERROR, None)


def _pop(stack: Any, pushed: list[Any] | None) -> None:
    """Undo a push. Celery's own way gives the list up with its last element, to make it anew for the next message."""
    if pushed is None:
        # With USE_FAST_LOCALS Celery has stacks that do not show their lists.
        stack.pop()
    else:
        pushed.pop()


def _run(request: FastPathRequest) -> Any:
    try:
        return request.run()
    except BaseException as error:
        if is_exit(error):
            raise
        return results.escaped(request.id)
