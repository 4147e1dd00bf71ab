"""Finds and cancels deliveries in Redis and in workers, for `Delivery`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.outcome import Cancelled, to_wire
from orchestrator.core.deliveries.supervision import Supervision, supervision_in
from orchestrator.core.stored_values import stored_text
from orchestrator.registry.registry import Registry
from orchestrator.sending.delivery import CancelResult, Found, Status
from orchestrator.transport.mailbox_entry import LINEAGE, renewed
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.store import Store

#: Messages that one script reads, in about a millisecond, in which Redis does nothing else.
_SLICE = 500

#: Searches for one message: it may move during a search, because it falls due, is retried or is requeued.
_TRIES = 3


class RedisTracker:
    """Deliveries that went to Redis, which is opened when it is first asked."""

    def __init__(self, app: Celery, store: Callable[[], Store], registry: Callable[[], Registry]) -> None:
        self._app = app
        self._open = store
        self._registry = registry
        self._callers = Callers()

    @property
    def _store(self) -> Store:
        return self._open()

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """See :class:`orchestrator.sending.delivery.Tracker`."""
        try:
            raw: Any = self._store.client.lindex(self._store.keys.outcome(delivery_id), 0)
        except RedisError as error:
            raise self._store.failure(error) from error
        with self._store.reading(self._store.keys.outcome(delivery_id)):
            loaded: dict[str, Any] | None = None if raw is None else json.loads(raw)
            return loaded

    def is_cancelled(self, delivery_id: str) -> bool:
        """Whether a delivery, or the run that it is a step of, was cancelled while a worker has it.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store
        try:
            return bool(store.client.hexists(store.keys.outcome_hooks(delivery_id), "cancel"))
        except RedisError as error:
            raise store.failure(error) from error

    def find(self, queue: str, delivery_id: str) -> Found | None:
        """See :class:`orchestrator.sending.delivery.Tracker`."""
        if not queue:
            located = self.locate(delivery_id)
            return None if located is None else located[1]
        where, *rest = self._look(queue, delivery_id, "")
        match where:
            case "scheduled":
                return Found(Status.SCHEDULED, _supervision(rest[0]), deaths=_deaths(rest[1]))
            case "waiting":
                return Found(Status.PENDING, _supervision(rest[0]), deaths=_deaths(rest[1]))
            case "held":
                # The delivery counter is the mark of execution (see the transport's holder).
                status = Status.RUNNING if int(rest[2]) >= 2 else Status.CLAIMED
                return Found(status, _supervision(rest[0]), stored_text(rest[1]), _deaths(rest[3]))
        return None

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        """See :class:`orchestrator.sending.delivery.Tracker`."""
        store = self._store
        try:
            queues: Any = store.client.smembers(store.keys.queues)
        except RedisError as error:
            raise store.failure(error) from error
        for queue in sorted(raw.decode("utf-8", "surrogateescape") for raw in queues):
            if (found := self.find(queue, delivery_id)) is not None:
                return queue, found
        return None

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        """See :class:`orchestrator.sending.delivery.Tracker`."""
        if not queue and (located := self.locate(delivery_id)) is not None:
            queue = located[0]
        where, *rest = self._look(queue, delivery_id, json.dumps(to_wire(Cancelled(by="sender"))))
        match where:
            case "removed":
                return CancelResult.CANCELLED
            case "ended":
                return CancelResult.TOO_LATE
            case "held":
                return self._stop(delivery_id, stored_text(rest[1]))
        return CancelResult.UNKNOWN

    def _stop(self, delivery_id: str, holder: str) -> CancelResult:
        found = next((i for i in self._registry().incarnations() if i.id == holder), None)
        can_interrupt = found is not None and found.pool == "prefork"
        try:
            self._app.control.revoke(
                delivery_id,
                terminate=can_interrupt,
                signal="SIGKILL",
                destination=[found.node] if found is not None else None,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise self._store.failure(error) from error
        return CancelResult.INTERRUPTING if can_interrupt else CancelResult.WHEN_IT_ENDS

    def _look(self, queue: str, delivery_id: str, outcome: str) -> list[Any]:
        store = self._store
        k = store.keys
        ttl_ms = to_ms(store.options.outcome_ttl_s)

        def look(stream: str, begin: str, attempt: Attempt | None = None) -> Any:
            cancel = None if attempt is None else (outcome, attempt)
            call = commands.find_delivery(
                k, queue, delivery_id, stream=stream, begin=begin, count=_SLICE, cancel=cancel, ttl_ms=ttl_ms
            )
            return store.run(*call)

        for _ in range(_TRIES):
            # A deferred message that is let go meanwhile is in a stream that comes later; so is one that leaves its
            # lane, or enters it.
            levels = (k.stream(queue, level) for level in store.levels)
            for stream in ("", k.deferred(queue), k.lanes(queue), *levels, k.lanes(queue)):
                begin = "-" if stream else "0"
                while begin:
                    here = partial(look, stream, begin)
                    found, *rest = self._callers.run(k, here) if outcome else here()
                    where = stored_text(found)
                    if where not in ("on", "none"):
                        return [where, *rest]
                    begin = stored_text(rest[0]) if rest else ""
        return ["nowhere"]


def _deaths(raw: bytes) -> tuple[Any, ...]:
    try:
        return tuple(json.loads(raw)) if raw else ()
    except (ValueError, TypeError, RecursionError):
        return ()


def _supervision(raw: bytes) -> Supervision:
    try:
        message = json.loads(raw)
        headers = message["headers"]
        if isinstance(lineage := message.get(LINEAGE), dict):
            headers = renewed(headers, lineage)
        return supervision_in(headers) or Supervision()
    except (ValueError, LookupError, TypeError, RecursionError):
        return Supervision()
