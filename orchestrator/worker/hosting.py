"""Hosting: each handler of an agent becomes a Celery task, the agent's name a queue."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from celery import Celery
from kombu.utils.imports import symbol_by_name

from orchestrator.agents.agent import Agent
from orchestrator.agents.context import Context
from orchestrator.agents.spec import AgentSpec, HandlerSpec
from orchestrator.agents.votes import is_vote
from orchestrator.core.calls.conversation import CURRENT as CONVERSATION
from orchestrator.core.deliveries.attempt_limits import CURRENT
from orchestrator.core.deliveries.down import Down
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import DeadlinePassed, HandlerTimeout, InvalidMessage
from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.message import decode, message_name
from orchestrator.sending.celery_sends import capture_apply
from orchestrator.sending.mailbox import mailbox
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.transport.celery.strategies import has_own_strategy
from orchestrator.transport.transport import CELERY_REQUEST, TRACKED_REQUEST
from orchestrator.worker.execution.attempts import derive
from orchestrator.worker.execution.fencing_token import fence_of
from orchestrator.worker.execution.message_supervision import supervision_of
from orchestrator.worker.execution.replaced_task import inherited, replacing

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.wiring.runtime import Runtime

REQUEST = "orchestrator.worker.requests.supervised_request:SupervisedRequest"

#: Celery's own tasks that compute a result, so that they can replace a supervised task (a group ends in `accumulate`).
_OF_CANVAS: Final = frozenset({"celery.accumulate", "celery.chunks", "celery.map", "celery.starmap"})


class _Instance:
    """One agent instance per process, made for its first message."""

    def __init__(self, cls: type[Agent]) -> None:
        self._cls = cls
        self._agent: Agent | None = None
        self._lock = ForkSafeLock()

    def get(self) -> Agent:
        if self._agent is None:
            with self._lock:
                if self._agent is None:
                    self._agent = self._cls()
        return self._agent


def host(orchestrator: Orchestrator, agents: Iterable[type[Agent]]) -> None:
    """Make agents part of an app; see :meth:`orchestrator.app.Orchestrator.host`."""
    # Later, because it imports Celery's pools.
    from orchestrator.worker.bootsteps.validate_timeouts import refuse_policies

    runtime = orchestrator.runtime
    for cls in agents:
        spec = runtime.directory.declare(cls)
        if spec is not None:
            refuse_policies(runtime.directory.addresses_of(spec))
            runtime.configuration.add_mailbox(mailbox(spec.queue))
            _register_handlers(runtime.app, orchestrator, spec)
    runtime.hidden.hide()
    if runtime.app.finalized:
        supervise_tasks(runtime.app)


def _register_handlers(app: Celery, orchestrator: Orchestrator, spec: AgentSpec) -> None:
    """Make a Celery task of each handler."""
    instance = _Instance(spec.cls)
    # The app's setting is for its own tasks: an agent's message is supervised, so it is acknowledged late.
    late = {"acks_late": True, "reject_on_worker_lost": True}
    options = {"bind": True, "ignore_result": True, "typing": False, "shared": False, **late}
    for message, handler in spec.handlers.items():
        supervision = partial(_default_supervision, orchestrator.runtime, spec.name, message)
        app.task(
            _runner(orchestrator, spec, handler, instance),
            name=spec.task_name(message),
            __default_supervision__=supervision,
            # Celery logs these at INFO, without a traceback: most are votes that a ballot no longer waits for.
            throws=(HandlerTimeout, DeadlinePassed) if is_vote(message) else (),
            **options,
        )
    app.task(_down_runner(orchestrator, spec, instance), name=spec.down_task, **options)


def _default_supervision(runtime: Runtime, agent: str, message: str) -> Supervision:
    """The supervision of a message whose send sets no options."""
    return runtime.sender.default_supervision(runtime.directory.address(agent, message))


def _runner(orchestrator: Orchestrator, spec: AgentSpec, handler: HandlerSpec, instance: _Instance) -> Any:
    model, needs_context, takes_message = handler.message, handler.needs_context, spec.takes_message_alone(handler)

    def handle(task: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or not isinstance(args[0], dict):
            raise InvalidMessage(message_name(model), ["the body is not one object of fields"])
        message = decode(model, args[0], hidden=orchestrator.settings.redact)
        if takes_message:
            return getattr(instance.get(), handler.method)(message)
        context = _context(orchestrator, spec, task.request) if needs_context else None
        return spec.call(instance.get(), handler, message, context)

    handle.__name__ = handler.method
    handle.__doc__ = getattr(spec.cls, handler.method).__doc__
    return handle


def _down_runner(orchestrator: Orchestrator, spec: AgentSpec, instance: _Instance) -> Any:
    def on_down(task: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs or len(args) != 1:
            raise InvalidMessage("Down", ["the body is not one object of fields"])
        down = Down.from_wire(args[0])
        if not orchestrator.monitors.is_flushed(down.ref):
            spec.call_down(instance.get(), down, _context(orchestrator, spec, task.request))

    on_down.__doc__ = spec.cls.on_down.__doc__
    return on_down


def _context(orchestrator: Orchestrator, spec: AgentSpec, request: Any) -> Context:
    supervision = supervision_of(request)
    info = request.delivery_info or {}
    cancellation = orchestrator.runtime.steps.cancellation_of(str(request.id), supervision)
    limits = CURRENT.get()
    return Context(
        id=str(request.id),
        agent=spec.name,
        attempt=request.retries + 1,
        fence=fence_of(request),
        worker=str(request.hostname),
        redelivered=bool(info.get("redelivered")),
        metadata=dict(supervision.metadata) if supervision is not None else {},
        orchestrator=orchestrator,
        incarnation=str(own_field(request, INCARNATION) or ""),
        workflow=orchestrator.runtime.steps.context_of(supervision, cancellation),
        cancellation=cancellation,
        ends_at_s=None if limits is None else limits.ends_at_s,
        conversation=CONVERSATION.get(),
    )


def supervise_tasks(app: Celery) -> None:
    """Have this library execute and settle every task of the app, except those with their own way of settling."""
    for task in app.tasks.values():
        if getattr(task, "__supervised__", False) or (task.name.startswith("celery.") and task.name not in _OF_CANVAS):
            continue
        task.__supervised__ = True
        task.on_replace = inherited(task, task.on_replace)
        task.replace = replacing(task, task.replace)
        if not has_own_strategy(task):
            if task.Request in (CELERY_REQUEST, TRACKED_REQUEST):
                task.Request = REQUEST
            derive(task)
            task.__handle__ = task.run
        task.apply = capture_apply(task, task.apply)
        task.__unsupervised__ = why_task_not_supervised(task)


def why_task_not_supervised(task: Any) -> str:
    """The reason why a task's messages cannot be supervised; empty if they can."""
    if not task.acks_late:
        return "acks_late=False: acknowledged before it runs, so it is lost with its worker"
    if has_own_strategy(task):
        return f"its Strategy is {_import_name(task.Strategy)}, which hands messages to the pool by itself"
    if inspect.iscoroutinefunction(task.run) or inspect.isasyncgenfunction(task.run):
        return "it is an async function; Celery's pools run plain functions"
    if inspect.isgeneratorfunction(task.run):
        return "it is a generator function; Celery's pools run plain functions"
    request = symbol_by_name(task.Request)
    if isinstance(request, type) and issubclass(request, symbol_by_name(REQUEST)):
        return ""
    return f"its Request class is {request.__module__}:{request.__qualname__}, which settles for itself"


def _import_name(strategy: Any) -> str:
    return strategy if isinstance(strategy, str) else f"{strategy.__module__}:{strategy.__qualname__}"
