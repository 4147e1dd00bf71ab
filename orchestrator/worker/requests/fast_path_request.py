"""A request on the fast path: it calls the handler itself, without Celery's tracer, and settles the message.

Only a success ends here. A failure takes Celery's way from the handler on: Celery's tracer gets the error that the
handler has raised, as if it had called the handler itself (see ``HANDLER_ERROR`` in own_fields.py).
"""

from __future__ import annotations

import logging
import weakref
from time import monotonic, time
from typing import Any

from celery._state import _task_stack
from celery.app import trace as celery_trace
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.utils.saferepr import saferepr
from celery.worker import state
from kombu.utils.encoding import safe_repr
from vine import promise

from orchestrator.agents.expand import Expand
from orchestrator.celery_types import Message, Pool
from orchestrator.core.deliveries.supervision import HEADER, Supervision
from orchestrator.core.forks import lazy_property
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.celery.own_fields import FENCE, HANDLER_ERROR, INCARNATION, KEPT
from orchestrator.transport.celery.reporting_pool import is_exit
from orchestrator.transport.celery.tracked_request import TrackedRequest
from orchestrator.worker.execution import results
from orchestrator.worker.execution.execute import run_attempt
from orchestrator.worker.execution.fencing_token import fence_at
from orchestrator.worker.execution.handler_result import as_json, check_ran, check_size, expanded, result_limit
from orchestrator.worker.requests.supervised_request import SupervisedRequest


class TaskFastPath:
    """The values that are the same for every message of one task on one connection."""

    def __init__(self, consumer: Any, task: Any) -> None:
        self.consumer = consumer
        self.app = consumer.app
        self.task = task
        self.handle = task.__handle__
        self.hostname = consumer.hostname
        self.logs_success = celery_trace.logger.isEnabledFor(logging.INFO)
        self.eventer = consumer.event_dispatcher
        self.connection_errors = consumer.connection_errors
        self.push_request = task.request_stack.push
        #: Whether there is a result backend, and so something to store after a success.
        self.stores_results = type(task.backend) is not DisabledBackend


def emits_task_events(eventer: Any) -> bool:
    """Whether events of tasks are on. Events of workers alone nearly always are."""
    return bool(eventer and eventer.enabled and (not eventer.groups or "task" in eventer.groups))


class FastPathContext(Context):
    """Celery's ``Task.request`` of a message on the fast path."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__ = fields

    @lazy_property
    def headers(self) -> dict[str, Any] | None:
        """The message's headers without Celery's own; computed when they are read."""
        found: dict[str, Any] | None = self._get_custom_headers(vars(self))
        return found


class _Success:
    """The result of a handler: itself, and as JSON data for the outcome."""

    __slots__ = ("data", "result", "runtime_s")

    def __init__(self, result: Any, data: Any, runtime_s: float) -> None:
        self.result = result
        self.data = data
        self.runtime_s = runtime_s


class FastPathRequest(SupervisedRequest):
    """A request whose message was read and found to have nothing uncommon."""

    supervision: Supervision

    def __init__(self, message: Message, of_task: TaskFastPath, body: list[Any], supervision: Supervision) -> None:
        """Sets the attributes that Celery's own ``__init__`` sets, from what is known already."""
        headers, properties = message.headers, message.properties
        info = message.delivery_info
        self._of_task = of_task
        self.supervision = supervision
        self._message = message
        self._app = of_task.app
        self._task = of_task.task
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
        self._hostname = of_task.hostname
        self._eventer = of_task.eventer
        self._connection_errors = of_task.connection_errors
        ignored = headers.get("ignore_result")
        self._ignore_result = of_task.task.ignore_result if ignored is None else ignored
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
            "hostname": of_task.hostname,
            "delivery_info": self._delivery_info,
            "args": self._args,
            "kwargs": self._kwargs,
            FENCE: fence_at(message.delivery_tag),
        }
        self.note_reserved()

    def __getattr__(self, name: str) -> Any:
        """Celery's callbacks that acknowledge or reject; most messages never need them, so they are made here."""
        if name not in ("_on_ack", "_on_reject"):
            raise AttributeError(name)
        consumer, message = self._of_task.consumer, self._message
        act = message.ack_log_error if name == "_on_ack" else message.reject_log_error
        made = promise(
            consumer.call_soon_ack, (act,), on_error=consumer._restore_prefetch_count_after_connection_restart
        )
        setattr(self, name, made)
        return made

    def submit(self, pool: Pool, **kwargs: Any) -> Any:
        """Pass the message to the pool. That it is not revoked was checked a moment ago."""
        guarded = self.hand_to(pool)
        channel = channel_of(self._message)
        if channel is not None:
            self._request_dict[INCARNATION] = channel.incarnation
            self.override_timeout(channel)
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
        """The handler returned; or it raised, and Celery's tracer has handled its error."""
        returned = failed__retval__runtime
        if not isinstance(returned, _Success):
            return super().on_success(returned, **kwargs)
        if self.is_open():
            self._returned = True
            self.settle_handled(returned.data, returned.runtime_s)
            self.emit_resolved()
        if not self.acknowledged or emits_task_events(self._eventer):
            shown = saferepr(returned.result, self._task.resultrepr_maxsize)
            return TrackedRequest.on_success(self, (0, shown, returned.runtime_s))
        state.task_ready(self)
        return None

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A thread starts to run this message."""
        if emits_task_events(self._eventer) or self._terminate_on_ack is not None:
            super().on_accepted(pid, time_accepted)
            return
        self.worker_pid = pid
        self.time_start = time() - (monotonic() - time_accepted)
        # As `state.task_accepted`, without adding the request again and without the check of the mapping's type.
        state.active_requests.add(self)
        state.total_count[self.name] += 1
        state.all_total_count[0] += 1
        self.mark_started()

    def run(self) -> Any:
        """Call the handler, in the pool's thread."""
        of_task, task = self._of_task, self._task
        context = FastPathContext(
            {
                **self._request_dict,
                **self._Request__payload[2],
                "is_eager": False,
                "called_directly": False,
                "_protected": 1,
                KEPT: (self._request_dict[HEADER], self.supervision),
            }
        )
        began = monotonic()
        tasks, requests = _task_stack.push(task), of_task.push_request(context)
        failed: BaseException | None = None
        try:
            args, kwargs = self._args, self._kwargs
            if self.supervision.run is not None:
                args, kwargs = self._app.orchestrator.runtime.steps.fill_arguments(self.supervision.run, args, kwargs)
            result = run_attempt(task, of_task.handle, args, kwargs, context, self.supervision)
            check_ran(task.name, result)
            if type(result) is Expand:
                data, result = expanded(self._app, task.name, self.supervision, result), None
            elif type(result) is Suspended:
                data, result = result, None
            else:
                data = as_json(task.name, result) if self.supervision.track else None
            if self.supervision.run is not None or self.supervision.ask:
                check_size(data, result_limit(self.supervision, self._app.orchestrator.settings.result_limit_bytes))
        except BaseException as error:  # noqa: BLE001
            failed = error
        finally:
            _pop(_task_stack, tasks)
            _pop(task.request_stack, requests)
        if failed is not None:
            return self._trace_error(failed)
        runtime_s = monotonic() - began
        if of_task.logs_success:
            self._log_success(result, runtime_s)
        return _Success(result, data, runtime_s)

    def _log_success(self, result: Any, runtime_s: float) -> None:
        fields = {
            "id": self.id,
            "name": self.name,
            "return_value": saferepr(result, self._task.resultrepr_maxsize),
            "runtime": runtime_s,
            "args": self._argsrepr or safe_repr(self._args),
            "kwargs": self._kwargsrepr or safe_repr(self._kwargs),
        }
        celery_trace.info(celery_trace.LOG_SUCCESS, fields)

    def _trace_error(self, error: BaseException) -> Any:
        """Have Celery's tracer handle the error that the handler has raised."""
        self._request_dict[HANDLER_ERROR] = error
        try:
            trace = results.fast_trace if self._app.use_fast_trace_task else results.trace
            return trace(
                self._type, self.id, self._request_dict, self._body, self._content_type, self._content_encoding
            )
        finally:
            # The error's traceback refers to this frame, and this frame to the error.
            self._request_dict.pop(HANDLER_ERROR, None)


def _pop(stack: Any, pushed: list[Any] | None) -> None:
    """Undo a push. Celery's own ``pop`` drops the list with its last element and makes a new one for each message."""
    if pushed is None:
        # With USE_FAST_LOCALS, Celery's stacks do not return their lists.
        stack.pop()
    else:
        pushed.pop()


def _run(request: FastPathRequest) -> Any:
    try:
        return request.run()
    except BaseException as error:
        if is_exit(error):
            raise
        return results.escaped(request.id, error)
