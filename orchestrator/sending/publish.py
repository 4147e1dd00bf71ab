"""The one place that publishes. Everything that is sent goes out here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from celery import Celery
from kombu import Queue
from kombu.exceptions import EncodeError, LimitExceeded, OperationalError
from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, InvalidMessage
from orchestrator.core.policy import WhenDown
from orchestrator.core.redact import redact
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.telemetry import tracing

#: Of a message's arguments, so many characters are shown; Celery's own limit.
_SHOWN: Final = 1024

#: Longest wait for a connection while others have all of the pool's; what they publish takes milliseconds.
PRODUCER_WAIT_S: Final = 30.0

#: Publishes a parcel with these headers, its arguments shown like this; or says that it is Celery's to do.
Quick = Callable[["OutgoingMessage", Mapping[str, Any], tuple[str, str]], bool]


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """Everything a publish needs."""

    id: str
    task: str
    args: Sequence[Any]
    supervision: Supervision
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: Queue | str | None = None
    countdown_s: float | None = None
    expires_s: float | None = None
    priority: int | None = None
    when_down: WhenDown = WhenDown.QUEUE
    #: Celery's callbacks and errbacks, for a task.
    link: Sequence[Any] = ()
    link_error: Sequence[Any] = ()
    #: Where it is given, publishing notes the trace context here that the message carries.
    trace: MutableMapping[str, Any] | None = None
    #: What else a signature says, for its task's ``apply_async``.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Parcel {self.id}: {self.task}>"

    def with_body(self, id: str, args: Sequence[Any]) -> OutgoingMessage:
        """One that differs in nothing else."""
        # Written out: for each of many messages, dataclasses.replace() would take twice as long.
        return OutgoingMessage(
            id,
            self.task,
            args,
            self.supervision,
            self.kwargs,
            self.queue,
            self.countdown_s,
            self.expires_s,
            self.priority,
            self.when_down,
            self.link,
            self.link_error,
            self.trace,
            self.options,
        )


def publish(
    app: Celery,
    parcel: OutgoingMessage,
    hidden: tuple[str, ...] = (),
    *,
    producer: Any = None,
    quick: Quick | None = None,
) -> None:
    """Send a parcel; when this returns, Redis has it. Logs, events and Flower see the ``hidden`` fields redacted,
    and the message's secrets.

    ``quick`` does it where it can.

    Raises:
        BrokerUnavailable: Redis did not take it (after Celery's own publish retries). If the connection broke
            at the last moment it may have been taken all the same. Or no connection was free (see :func:`producer_of`).
        InvalidMessage: its arguments are not JSON data.
    """
    reprs = reprs_of(parcel, hidden)
    with refusals(app, parcel.task), headers_of(parcel) as headers:
        if quick is not None and quick(parcel, headers, reprs):
            return
        with producer_of(app) if producer is None else nullcontext(producer) as mine:
            by_celery(app, parcel, headers, reprs, {"producer": mine})


@contextmanager
def producer_of(app: Celery) -> Iterator[Any]:
    """A producer on one of the app's connections. Celery's pool of producers would wait for one without end.

    Raises:
        BrokerUnavailable: others have had all of them for :data:`PRODUCER_WAIT_S`.
    """
    try:
        connection = app.pool.acquire(block=True, timeout=PRODUCER_WAIT_S)
    except LimitExceeded as error:
        limit = f"all connections were in use for {PRODUCER_WAIT_S:g} s; broker_pool_limit={app.conf.broker_pool_limit}"
        with app.connection_for_write() as mine:
            raise BrokerUnavailable(mine.as_uri(), limit) from error
    with connection:
        yield app.amqp.Producer(connection, auto_declare=False)


def by_celery(
    app: Celery, parcel: OutgoingMessage, headers: Mapping[str, Any], reprs: tuple[str, str], options: Mapping[str, Any]
) -> None:
    """Have Celery publish a parcel, with more of Celery's ``options``."""
    said = {
        "queue": parcel.queue,
        "priority": parcel.priority,
        # Nothing at all, or Celery would take it for a word against the task's own.
        "expires": parcel.expires_s,
        "link": list(parcel.link) or None,
        "link_error": list(parcel.link_error) or None,
    }
    # The Orchestrator's own send_task would look for what it has to add (see celery_sends.py).
    send = getattr(app.send_task, "celery", app.send_task)
    send(
        parcel.task,
        args=list(parcel.args),
        kwargs=dict(parcel.kwargs),
        task_id=parcel.id,
        countdown=parcel.countdown_s,
        argsrepr=reprs[0],
        kwargsrepr=reprs[1],
        headers={**own_headers(parcel), **headers},
        ignore_result=_ignores_result(app, parcel),
        **{name: value for name, value in said.items() if value is not None},
        **{
            **{name: value for name, value in parcel.options.items() if name not in ("headers", "ignore_result")},
            **options,
        },
    )


def own_headers(parcel: OutgoingMessage) -> dict[str, Any]:
    """The headers that a signature says for itself."""
    return dict(parcel.options.get("headers") or {})


@contextmanager
def headers_of(parcel: OutgoingMessage) -> Iterator[dict[str, Any]]:
    """Within the span of its sending, the headers of a parcel that are not Celery's."""
    headers: dict[str, Any] = {HEADER: parcel.supervision.to_wire()}
    with tracing.span(f"send {parcel.task}", "PRODUCER", id=parcel.id):
        tracing.carry(headers)
        if parcel.trace is not None:
            tracing.carry(parcel.trace)
        yield headers


@contextmanager
def refusals(app: Celery, task: str) -> Iterator[None]:
    """What Celery, kombu and redis-py raise, as this library's errors."""
    try:
        yield
    except EncodeError as error:
        raise InvalidMessage(task, [str(error)]) from error
    except (OperationalError, RedisError, OSError) as error:
        with app.connection_for_write() as connection:
            raise BrokerUnavailable(connection.as_uri(), error) from error


def reprs_of(parcel: OutgoingMessage, hidden: tuple[str, ...]) -> tuple[str, str]:
    """A parcel's arguments and keyword arguments as logs and Flower show them."""
    names = hidden_in(parcel, hidden)
    return shown(parcel.args, names), shown(parcel.kwargs, names)


def hidden_in(parcel: OutgoingMessage, hidden: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the fields that are not shown of a parcel: those ``hidden`` in all, and its own secrets."""
    hide = parcel.supervision.hide
    return (*hidden, *hide) if hide else hidden


def shown(arguments: Sequence[Any] | Mapping[str, Any], hidden: tuple[str, ...]) -> str:
    """A message's arguments as logs and Flower show them."""
    if not arguments:
        return "{}" if isinstance(arguments, Mapping) else "()"
    text = repr(redact(dict(arguments) if isinstance(arguments, Mapping) else list(arguments), hidden))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def queue_name(parcel: OutgoingMessage) -> str:
    """The name of a parcel's mailbox, where it says it."""
    return str(getattr(parcel.queue, "name", parcel.queue))


def _ignores_result(app: Celery, parcel: OutgoingMessage) -> bool | None:
    """Whether Celery's result backend has no part in this; else it would listen for a result at every send."""
    if parcel.supervision.agent:
        return True
    if (said := parcel.options.get("ignore_result")) is not None:
        return bool(said)
    task = app.tasks.get(parcel.task)
    return True if task is not None and task.ignore_result else None
