"""`send_many`: many messages to one agent in few round trips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from celery import Celery, signals
from kombu.exceptions import BatchPublishError

from orchestrator.core.errors import BrokerUnavailable, CircuitOpen, MailboxFull
from orchestrator.sending.mould import body_at, body_of, filled, mould, new_nonce, shown
from orchestrator.sending.publish import Parcel, publish

#: Messages in one round trip. More would keep Redis from others for longer than a few milliseconds.
CHUNK: Final = 500


Writer = Callable[[Sequence[Parcel]], None]


def publish_many(app: Celery, parcels: Sequence[Parcel], hidden: tuple[str, ...]) -> None:
    """Publish parcels to one agent, in their order; all have the same options.

    Raises:
        MailboxFull, CircuitOpen: flow control stopped it; ``accepted`` says after how many.
        InvalidMessage: the arguments of one are not JSON data.
        BrokerUnavailable: Redis did not take it; of the last :data:`CHUNK`, what was accepted is unknown.
    """
    done = 0
    with app.producer_pool.acquire(block=True) as producer:
        try:
            with producer.batch(max_size=2 * CHUNK) as batch:
                write = _one_by_one(app, hidden, batch) if _somebody_listens(app) else _cast(app, hidden, batch)
                for start in range(0, len(parcels), CHUNK):
                    chunk = parcels[start : start + CHUNK]
                    write(chunk)
                    batch.flush()
                    done += len(chunk)
        except BatchPublishError as error:
            raise _cause(app, error, done) from error


def _somebody_listens(app: Celery) -> bool:
    """Whether Celery has something to tell, or to ask, about each single message."""
    return bool(
        signals.before_task_publish.receivers or signals.after_task_publish.receivers or app.conf.task_send_sent_event
    )


def _one_by_one(app: Celery, hidden: tuple[str, ...], batch: Any) -> Writer:
    def write(chunk: Sequence[Parcel]) -> None:
        for parcel in chunk:
            publish(app, parcel, hidden, producer=batch.producer)

    return write


def _cast(app: Celery, hidden: tuple[str, ...], batch: Any) -> Writer:
    moulds: dict[str, tuple[list[str], str, list[str], list[Any], int]] = {}

    def write(chunk: Sequence[Parcel]) -> None:
        for parcel in chunk:
            if parcel.task not in moulds:
                waiting = batch.state.session.take_back() if batch.state.session is not None else []
                made = mould(app, parcel, hidden, batch, nonce=new_nonce())
                for call in waiting:
                    batch.state.session.run(*call)
                moulds[parcel.task] = (made.parts(), *made.call, body_at(made.call[0]))
            parts, script, keys, args, at = moulds[parcel.task]
            names = {
                "id": parcel.id,
                "tag": parcel.id,
                "body": body_of(parcel.args),
                "args": shown(parcel.args, hidden),
                "agent": parcel.supervision.agent,
                "task": parcel.task,
                "queue": queue_name(parcel),
            }
            args[at] = filled(parts, names)
            if script == "delay":
                args[0] = f"{args[0].split('|', 1)[0]}|{parcel.id}"
            batch.state.session.run(script, keys, args)

    return write


def queue_name(parcel: Parcel) -> str:
    """The name of a parcel's mailbox."""
    return str(getattr(parcel.queue, "name", parcel.queue))


def _cause(app: Celery, error: BatchPublishError, done: int) -> Exception:
    why = error.__cause__
    if isinstance(why, MailboxFull | CircuitOpen):
        why.accepted += done
        return why
    with app.connection_for_write() as connection:
        return BrokerUnavailable(connection.as_uri(), why or error)
