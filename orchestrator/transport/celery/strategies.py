"""Tasks with a ``Strategy`` of their own, which submit messages to the pool themselves (celery-batches).

Celery's requests are not involved. So such a strategy receives a view of the consumer, whose pool marks the submitted
messages as executing. If their process dies, the death counts against these messages and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app.task import Task
from celery.exceptions import WorkerLostError, WorkerShutdown, WorkerTerminate

from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.log import get_logger
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.celery.reporting_pool import failure_info, is_exit
from orchestrator.transport.letter_draft import LetterDraft
from orchestrator.transport.liveness.child_exit import end_of
from orchestrator.transport.liveness.worker_state import WORKER_STATE

logger = get_logger(__name__)

#: Depth to which message ids are searched for in the arguments of a submission.
_DEPTH: Final = 4

_start_strategy: Final = Task.start_strategy


def has_own_strategy(task: Any) -> bool:
    """Whether a task's strategy is not Celery's."""
    return bool(task.Strategy != Task.Strategy)


def watch_strategies() -> None:
    """Patch Celery so that every strategy that is not its own receives a :class:`_Consumer`."""
    if Task.start_strategy is _start_strategy:
        Task.start_strategy = _start_watched


def _start_watched(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    if has_own_strategy(task):
        consumer = _Consumer(consumer, task)
    return _start_strategy(task, app, consumer, **kwargs)


class _View:
    """Forwards all attributes to an object, except those that a subclass defines."""

    def __init__(self, of: Any) -> None:
        vars(self)["_of"] = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._of, name, value)


class _Consumer(_View):
    def __init__(self, consumer: Any, task: Any) -> None:
        super().__init__(consumer)
        vars(self)["_task"] = task

    @property
    def pool(self) -> Any:
        return _Pool(self._of.pool, self._of, self._task)


class _Pool(_View):
    def __init__(self, pool: Any, consumer: Any, task: Any) -> None:
        super().__init__(pool)
        vars(self)["_consumer"], vars(self)["_task"] = consumer, task

    def apply_async(self, target: Callable[..., Any], args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """As the pool's; also marks the messages as executing, and requeues them if their process dies."""
        batch = _Batch(self._given(args, kwargs))
        accepted, ended, failed = (options.get(f"{name}callback") for name in ("accept_", "", "error_"))

        def on_accepted(*now: Any) -> None:
            batch.started()
            if accepted:
                accepted(*now)

        def on_ended(result: Any) -> None:
            if isinstance(result, ExceptionInfo):
                # It raised a SystemExit, where the pool is not a process of its own.
                on_failed(result)
            elif ended:
                ended(result)

        def on_failed(error: ExceptionInfo, *more: Any) -> None:
            if failed:
                failed(error, *more)
            batch.failed(error)

        def run(*given: Any, **named: Any) -> Any:
            try:
                return target(*given, **named)
            except Exception:
                batch.failed(ExceptionInfo())
                raise
            except (WorkerShutdown, WorkerTerminate) as error:
                if is_exit(error):
                    raise
                return failure_info(error)

        options |= {"accept_callback": on_accepted, "callback": on_ended, "error_callback": on_failed}
        if "flush" in vars(self._of):
            # Only a prefork pool has `flush`. It pickles the function, so a closure cannot be sent.
            return self._of.apply_async(target, args, kwargs, **options)
        batch.handed()
        return self._of.apply_async(run, args, kwargs, **options)

    def _given(self, args: Any, kwargs: Any) -> list[Any]:
        """The task's messages that the arguments mention; all delivered ones if none is mentioned."""
        channel = self._consumer.task_consumer.channel
        held = [message for message in list(channel.qos._delivered.values()) if _task_of(message) == self._task.name]
        ids = _mentioned((args, kwargs), {str(message.headers.get("id")) for message in held})
        return [message for message in held if not ids or message.headers.get("id") in ids]


class _Batch:
    """Messages that a strategy has submitted to the pool together."""

    def __init__(self, messages: Iterable[Any]) -> None:
        self._tags = [
            (channel, message.delivery_tag) for message in messages if (channel := channel_of(message)) is not None
        ]

    def handed(self) -> None:
        for channel, tag in self._tags:
            channel.settler.handed(tag)

    def started(self) -> None:
        for channel, tag in self._tags:
            channel.settler.started(tag)

    def failed(self, failure: ExceptionInfo) -> None:
        """Requeue the messages if a process ended, else dead-letter them; skip those that the strategy has settled."""
        error = failure.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        for channel, tag in self._tags:
            holder = channel.settler.holder
            if holder is None or tag not in holder.claims:
                continue
            if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
                channel.settler.requeue_interrupted(tag, end_of(error, stopping=WORKER_STATE.is_stopping()))
            else:
                channel.settler.dead_letter(tag, LetterDraft(Reason.REJECTED.value, type(error).__name__, str(error)))
            channel.qos.settled(tag)


def _task_of(message: Any) -> Any:
    return message.headers.get("task") if isinstance(message.headers, Mapping) else None


def _mentioned(value: Any, ids: set[str], depth: int = _DEPTH) -> set[str]:
    if isinstance(value, str):
        return {value} & ids
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return set().union(*(_mentioned(item, ids, depth - 1) for item in value)) if depth else set()
    own = getattr(value, "id", None)
    return {own} & ids if isinstance(own, str) else set()
