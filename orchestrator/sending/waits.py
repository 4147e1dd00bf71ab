"""Handlers that wait in calls: recorded while they do, so that a ring of agents that wait for each other is found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery

from orchestrator.core.errors import BrokerUnavailable, CallWouldDeadlock
from orchestrator.core.log import get_logger
from orchestrator.sending.outgoing_message import OutgoingMessage, queue_name
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: A ring has to last so long: a reply may be on its way.
_LASTS_S: Final = 0.1


class Waits:
    """Knows who waits here. Outside of handlers nobody does: a ring needs a slot that is not free."""

    def __init__(self, app: Celery, open_store: Callable[[], Store]) -> None:
        self._app = app
        self._open_store = open_store

    @contextmanager
    def during(self, request: OutgoingMessage, *, raises: bool) -> Iterator[None]:
        """Around a call that waits for the reply to a request.

        Raises:
            CallWouldDeadlock: the reply would wait for this call, and ``raises`` is true.
        """
        task = self._app.current_worker_task
        incarnation = "" if task is None else str(own_field(task.request, INCARNATION) or "")
        if not incarnation:
            yield
            return
        store = self._open_store()
        caller = task.name.rpartition(".")[0] or task.name
        try:
            self._find_ring(store, incarnation, caller, request, raises)
            yield
        finally:
            try:
                store.run(*commands.end_waits(store.keys, incarnation, request.id))
            except BrokerUnavailable as error:
                # It goes with the incarnation.
                logger.debug("wait for %s not forgotten: %s", request.id, error)

    def _find_ring(self, store: Store, incarnation: str, caller: str, request: OutgoingMessage, raises: bool) -> None:
        call: Any = commands.begin_wait(store.keys, incarnation, request.id, queue_name(request), caller)
        try:
            ring = store.run(*call)
            if ring:
                threading.Event().wait(_LASTS_S)
                ring = store.run(*call)
        except BrokerUnavailable as error:
            logger.debug("not looked for a ring of calls: %s", error)
            return
        if not ring:
            return
        names = [raw.decode() for raw in ring]
        emit(events.DEADLOCK, agent=names[0], message=request.supervision.message, ring=" → ".join(names))
        if raises:
            raise CallWouldDeadlock(names)
        logger.warning(
            "call of %s by %s waits for itself: %s; all slots of their workers wait in calls",
            request.task,
            names[0],
            " → ".join(names),
        )
