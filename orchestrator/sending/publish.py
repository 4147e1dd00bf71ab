"""Publishing one message: every send of one message ends here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from celery import Celery
from kombu.exceptions import EncodeError, LimitExceeded, OperationalError
from redis.exceptions import RedisError

from orchestrator.core.deliveries.supervision import HEADER
from orchestrator.core.errors import BrokerUnavailable, InvalidMessage
from orchestrator.sending.messages.message_texts import reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, own_headers
from orchestrator.telemetry import tracing
from orchestrator.transport.admission.flow_control import UNCOUNTED
from orchestrator.transport.store import Store

#: Longest wait for a connection while others have all of the pool's; what they publish takes milliseconds.
PRODUCER_WAIT_S: Final = 30.0

#: Publishes a message with these headers and texts of its arguments; returns false if Celery has to publish it.
TryFast = Callable[[OutgoingMessage, Mapping[str, Any], tuple[str, str]], bool]


def publish(
    app: Celery,
    outgoing: OutgoingMessage,
    hidden: tuple[str, ...] = (),
    *,
    producer: Any = None,
    try_fast: TryFast | None = None,
) -> None:
    """Publish a message; when this returns, Redis has it.

    Logs, events and Flower see the ``hidden`` fields and the message's own secrets masked. ``try_fast`` is asked
    first; Celery publishes what it declines.

    Raises:
        BrokerUnavailable: Redis did not take it (after Celery's own publish retries). If the connection broke
            at the last moment it may have been taken all the same. Or no connection was free (see :func:`producer_of`).
        InvalidMessage: its arguments are not JSON data.
    """
    reprs = reprs_of(outgoing, hidden)
    with library_errors(app, outgoing.task), headers_of(outgoing) as headers:
        if try_fast is not None and try_fast(outgoing, headers, reprs):
            return
        with producer_of(app) if producer is None else nullcontext(producer) as mine:
            publish_by_celery(app, outgoing, headers, reprs, {"producer": mine})


@contextmanager
def producer_of(app: Celery) -> Iterator[Any]:
    """A producer on one of the app's connections. Celery's pool of producers would wait for one without end.

    While what is published waits for room, the pool has another connection in its stead.

    Raises:
        BrokerUnavailable: others have had all of them for :data:`PRODUCER_WAIT_S`.
    """
    try:
        connection = app.pool.acquire(block=True, timeout=PRODUCER_WAIT_S)
    except LimitExceeded as error:
        limit = f"all connections were in use for {PRODUCER_WAIT_S:g} s; broker_pool_limit={app.conf.broker_pool_limit}"
        with app.connection_for_write() as mine:
            raise BrokerUnavailable(mine.as_uri(), limit) from error
    replaced = False

    @contextmanager
    def uncounted() -> Iterator[None]:
        nonlocal replaced
        if app.pool.limit and not replaced:
            replaced = True
            app.pool.release(app.pool.new())
        yield

    token = UNCOUNTED.set(uncounted)
    try:
        yield app.amqp.Producer(connection, auto_declare=False)
    finally:
        UNCOUNTED.reset(token)
        if replaced:
            app.pool.replace(connection)
        else:
            connection.release()


def publish_by_celery(
    app: Celery,
    outgoing: OutgoingMessage,
    headers: Mapping[str, Any],
    reprs: tuple[str, str],
    options: Mapping[str, Any],
) -> None:
    """Have Celery publish a message, with more of Celery's ``options``."""
    given = {
        "queue": outgoing.queue,
        "priority": outgoing.priority,
        # Left out if None: Celery would take it for an option that overrides the task's own.
        "expires": outgoing.expires_s,
        "link": list(outgoing.link) or None,
        "link_error": list(outgoing.link_error) or None,
    }
    # Not the Orchestrator's own send_task, which would look the task up again (see celery_sends.py).
    send = getattr(app.send_task, "celery", app.send_task)
    send(
        outgoing.task,
        args=list(outgoing.args),
        kwargs=dict(outgoing.kwargs),
        task_id=outgoing.id,
        countdown=outgoing.countdown_s,
        argsrepr=reprs[0],
        kwargsrepr=reprs[1],
        headers={**own_headers(outgoing), **headers},
        ignore_result=_ignores_result(app, outgoing),
        **{name: value for name, value in given.items() if value is not None},
        **{
            **{name: value for name, value in outgoing.options.items() if name not in ("headers", "ignore_result")},
            **options,
        },
    )


def headers_of(outgoing: OutgoingMessage) -> AbstractContextManager[dict[str, Any]]:
    """The headers that this library adds to a message, within the span of its sending."""
    headers: dict[str, Any] = {HEADER: outgoing.supervision.to_wire()}
    return _traced(outgoing, headers) if tracing.is_on() else nullcontext(headers)


@contextmanager
def _traced(outgoing: OutgoingMessage, headers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with tracing.span(f"send {outgoing.task}", "PRODUCER", id=outgoing.id):
        tracing.carry(headers)
        if outgoing.trace is not None:
            tracing.carry(outgoing.trace)
        yield headers


class library_errors:  # noqa: N801 - used as a function is
    """A context that turns what Celery, kombu and redis-py raise in it into this library's errors."""

    # Each send enters one: a generator would take three times as long.
    __slots__ = ("_app", "_task")

    def __init__(self, app: Celery, task: str) -> None:
        self._app = app
        self._task = task

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, EncodeError):
            raise InvalidMessage(self._task, [str(error)]) from error
        if isinstance(error, OperationalError | RedisError | OSError):
            raise failure(self._app, error) from error


def failure(app: Celery, error: BaseException) -> BrokerUnavailable:
    """What an error of the broker's is for senders. If a key in Redis is of another type, it names the key."""
    if "WRONGTYPE" in str(error):
        store: Store = app.orchestrator.runtime.store
        return store.failure(error)
    with app.connection_for_write() as connection:
        return BrokerUnavailable(connection.as_uri(), error)


def _ignores_result(app: Celery, outgoing: OutgoingMessage) -> bool | None:
    """Whether Celery's result backend is not used; otherwise it would subscribe to a result at every send."""
    if outgoing.supervision.agent:
        return True
    if (given := outgoing.options.get("ignore_result")) is not None:
        return bool(given)
    task = app.tasks.get(outgoing.task)
    return True if task is not None and task.ignore_result else None
