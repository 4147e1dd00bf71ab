"""The one place that publishes. Everything that is sent goes out here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from celery.utils.saferepr import saferepr
from kombu import Queue
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, InvalidMessage
from orchestrator.core.policy import WhenDown
from orchestrator.core.redact import redact
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.sending.quick import QuickPublisher
from orchestrator.telemetry import tracing

#: Of a message's arguments, so many characters are shown; Celery's own limit.
_SHOWN = 1024

#: And so many levels.
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Parcel:
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


def publish(
    app: Celery,
    parcel: Parcel,
    hidden: tuple[str, ...] = (),
    *,
    producer: Any = None,
    quick: QuickPublisher | None = None,
) -> None:
    """Send a parcel; when this returns, Redis has it. Logs, events and Flower see the ``hidden`` fields redacted.

    ``quick`` does it where it can.

    Raises:
        BrokerUnavailable: Redis did not take it (after Celery's own publish retries). If the connection broke
            at the last moment it may have been taken all the same.
        InvalidMessage: its arguments are not JSON data.
    """
    options: dict[str, Any] = {} if producer is None else {"producer": producer}
    if parcel.queue is not None:
        options["queue"] = parcel.queue
    if parcel.priority is not None:
        options["priority"] = parcel.priority
    if parcel.link:
        options["link"] = list(parcel.link)
    if parcel.link_error:
        options["link_error"] = list(parcel.link_error)
    headers: dict[str, Any] = {HEADER: parcel.supervision.to_wire()}
    argsrepr, kwargsrepr = _shown(list(parcel.args), hidden), _shown(dict(parcel.kwargs), hidden)
    try:
        with tracing.span(f"send {parcel.task}", "PRODUCER", id=parcel.id):
            tracing.carry(headers)
            if quick is not None and quick.publish(parcel, headers, (argsrepr, kwargsrepr)):
                return
            app.send_task(
                parcel.task,
                args=list(parcel.args),
                kwargs=dict(parcel.kwargs),
                task_id=parcel.id,
                countdown=parcel.countdown_s,
                expires=parcel.expires_s,
                argsrepr=argsrepr,
                kwargsrepr=kwargsrepr,
                headers=headers,
                ignore_result=_ignores_result(app, parcel),
                **options,
            )
    except EncodeError as error:
        raise InvalidMessage(parcel.task, [str(error)]) from error
    except (OperationalError, RedisError, OSError) as error:
        with app.connection_for_write() as connection:
            raise BrokerUnavailable(connection.as_uri(), error) from error


def _shown(value: Any, hidden: tuple[str, ...]) -> str:
    visible = redact(value, hidden) if value else value
    text = repr(visible)
    # Celery's own way to show arguments is slow, and differs only where they are long or deep.
    plain = len(text) <= _SHOWN and text.count("[") + text.count("{") + text.count("(") <= _DEPTH
    return text if plain else str(saferepr(visible, maxlen=_SHOWN))


def _ignores_result(app: Celery, parcel: Parcel) -> bool | None:
    """Whether Celery's result backend has no part in this; else it would listen for a result at every send."""
    if parcel.supervision.agent:
        return True
    task = app.tasks.get(parcel.task)
    return True if task is not None and task.ignore_result else None
