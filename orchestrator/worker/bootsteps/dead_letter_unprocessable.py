"""A bootstep of the consumer: messages that Celery would log and delete become dead letters; agents are announced."""

from __future__ import annotations

from collections.abc import Mapping
from traceback import walk_tb
from typing import Any

from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from redis.exceptions import NoPermissionError

from orchestrator.agents.unhandled_message import unhandled
from orchestrator.celery_types import Message
from orchestrator.core.checks.text import is_text
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.deliveries.supervision import HEADER, hide_in, is_tracked
from orchestrator.core.errors import BrokerUnavailable, UnsuitableRedis
from orchestrator.core.log import get_logger
from orchestrator.core.secrets.long_texts import shortened
from orchestrator.core.secrets.masking import mask
from orchestrator.transport.celery.held_request import channel_of
from orchestrator.transport.letter_draft import MESSAGE_LIMIT, LetterDraft
from orchestrator.transport.redis.refusals import RefusesForNow
from orchestrator.worker.requests.fast_path import FastPath

logger = get_logger(__name__)


class DeadLetterUnprocessable(bootsteps.StartStopStep):
    """Wraps the four callbacks of Celery's consumer for messages that cannot become a request."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Called on every (re)connection, before the first message."""
        orchestrator = getattr(consumer.app, "orchestrator", None)
        if orchestrator is None or not orchestrator.runtime.is_supervised:
            # The messages of another broker are Celery's; the worker has logged that.
            return
        _examine(orchestrator)
        try:
            runtime = orchestrator.runtime
            runtime.redis.announce(runtime.directory.entries(consumer.app.amqp.queues.consume_from))
        except BrokerUnavailable as error:
            logger.warning("agents not announced in Redis: %s", error)

        on_decode_error = consumer.on_decode_error
        on_unknown_message = consumer.on_unknown_message
        on_unknown_task = consumer.on_unknown_task
        on_invalid_task = consumer.on_invalid_task

        def decode_error(message: Any, exc: BaseException) -> Any:
            _dead_letter(message, Reason.MALFORMED, type(exc).__name__, str(exc))
            return on_decode_error(message, exc)

        def unknown_message(body: Any, message: Any) -> Any:
            _dead_letter(message, Reason.MALFORMED, "UnknownFormat", "not a Celery task message")
            return on_unknown_message(body, message)

        def unknown_task(body: Any, message: Any, exc: BaseException) -> Any:
            unknown = unhandled(orchestrator.agents, str((message.headers or {}).get("task", "")))
            if unknown is not None:
                # Sent by a process with a newer or older version of the agent.
                _dead_letter(message, Reason.UNKNOWN_MESSAGE, type(unknown).__name__, str(unknown))
            else:
                _dead_letter(
                    message, Reason.UNKNOWN_TASK, "NotRegistered", f"no task {exc} is registered on this worker"
                )
            return on_unknown_task(body, message, exc)

        def invalid_task(body: Any, message: Any, exc: BaseException) -> Any:
            _dead_letter(message, Reason.MALFORMED, type(exc).__name__, str(exc))
            return on_invalid_task(body, message, exc)

        if not getattr(consumer, "__guarded__", False):
            consumer.__guarded__ = True
            _outlast_forbidden(consumer)
            consumer.on_decode_error = decode_error
            consumer.on_unknown_message = unknown_message
            consumer.on_unknown_task = unknown_task
            consumer.on_invalid_task = invalid_task
            create_task_handler = consumer.create_task_handler

            def create_guarded_handler(*args: Any, **kwargs: Any) -> Any:
                return _guarded(consumer, create_task_handler(*args, **kwargs))

            consumer.create_task_handler = create_guarded_handler
        # kombu calls this one for content that it cannot decode; it was set before this step.
        consumer.task_consumer.on_decode_error = consumer.on_decode_error


def _examine(orchestrator: Any) -> None:
    """Examine Redis, which was away when the worker started, or may be another one now."""
    try:
        orchestrator.runtime.redis.examination.run()
    except UnsuitableRedis as error:
        logger.critical("%s", error)
        raise WorkerShutdown(EX_FAILURE) from error


def _outlast_forbidden(consumer: Any) -> None:
    """Have a worker that once had all its rights connect again when Redis takes some; Celery would end it."""
    consumer.connection_errors = (*consumer.connection_errors, NoPermissionError)
    run_loop = consumer.loop

    def loop(*args: Any, **kwargs: Any) -> Any:
        try:
            return run_loop(*args, **kwargs)
        except NoPermissionError as error:
            # Celery knows the errors above from the next connection on.
            raise RefusesForNow(str(error)) from error

    consumer.loop = loop


def _guarded(consumer: Any, on_task_received: Any) -> Any:
    """Celery's handler of arriving messages, protected against malformed ones."""
    broken = (*consumer.connection_errors, *consumer.connection.channel_errors)
    fast_path = FastPath(consumer)
    tasks = consumer.app.tasks

    def handle(message: Message) -> Any:
        try:
            if why := _why_unsupervised(tasks, message):
                _dead_letter(message, Reason.UNSUPERVISED, "NotSupervised", why)
                message.reject_log_error(logger, broken)
                return None
            return None if fast_path.take(message) else on_task_received(message)
        except broken:
            raise
        except Exception as error:
            if _is_from_a_signal_handler(error):
                raise
            # An error that escaped would end the worker, and then the next worker that claims this message.
            logger.exception("Celery could not make a request from a message")
            if message.acknowledged:
                # It is a dead letter already; only the result backend failed.
                return None
            if not (message.delivery_info or {}).get("redelivered"):
                # The cause may be this worker rather than the message.
                message.reject(requeue=True)
                return None
            _dead_letter(message, Reason.MALFORMED, type(error).__name__, str(error))
            return None

    return handle


def _why_unsupervised(tasks: Mapping[str, Any], message: Message) -> str:
    """The reason why a supervised message cannot be supervised here; empty if it can, or plain Celery has sent it."""
    headers = message.headers
    if not isinstance(headers, dict) or HEADER not in headers:
        return ""
    name = headers.get("task")
    if name is None:
        return "it is of Celery's task protocol 1; allowed: task_protocol=2"
    why = getattr(tasks.get(name), "__unsupervised__", "") if isinstance(name, str) else ""
    return f"{name} cannot be supervised here: {why}" if why else ""


def _is_from_a_signal_handler(error: BaseException) -> bool:
    """Whether Celery's signal handlers raised the error; they interrupt any code of the main thread."""
    return any(frame.f_globals.get("__name__") == "celery.apps.worker" for frame, _ in walk_tb(error.__traceback__))


def _dead_letter(message: Message, reason: Reason, error: str, text: str) -> None:
    channel = channel_of(message)
    if channel is None:
        return
    headers = message.headers if isinstance(message.headers, dict) else {}
    delivery = str(headers.get("id") or "")
    # Celery gets the unmasked text.
    raw = text
    text = str(mask(shortened(raw), (*channel.options.redact, *hide_in(headers))))[:MESSAGE_LIMIT]
    letter = LetterDraft(reason.value, error, text)
    # As what Celery itself stores for an unknown task; it calls no errbacks for it, and completes no chord.
    celery_error = "NotRegistered", str(headers.get("task"))
    if reason is Reason.MALFORMED:
        celery_error = "InvalidTaskError", raw[:MESSAGE_LIMIT]
    queue = channel.settler.dead_letter(
        message.delivery_tag,
        letter,
        letter.outcome(),
        delivery if is_tracked(headers) and is_text(delivery) else "",
        celery_error=celery_error,
    )
    if queue is not None:
        letter.emit(agent=queue, message=str(headers.get("task", "")), delivery_id=delivery, error=error)
