"""Handlers that wait in calls: recorded while they do, so that a ring of agents that wait for each other is found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from celery import Celery

from orchestrator.core.calls.ring import Ring
from orchestrator.core.errors import BrokerUnavailable, CallWouldDeadlock
from orchestrator.core.log import get_logger
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.telemetry import emit, events
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: A ring has to last so long: a reply may be on its way.
_LASTS_S: Final = 0.1

_NOTHING: Final = nullcontext()


class Waits:
    """Knows who waits here. Outside of handlers nobody does: a ring needs a slot that is not free."""

    def __init__(self, app: Celery, open_store: Callable[[], Store]) -> None:
        self._app = app
        self._open_store = open_store

    def during(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        """Around a call that waits for the reply to a request.

        Raises:
            CallWouldDeadlock: the reply would wait for this call, and ``raises`` is true.
        """
        task = self._app.current_worker_task
        incarnation = "" if task is None else str(own_field(task.request, INCARNATION) or "")
        return self._recorded(incarnation, _agent_of(task.name), request, raises) if incarnation else _NOTHING

    @contextmanager
    def _recorded(self, incarnation: str, caller: str, request: OutgoingMessage, raises: bool) -> Iterator[None]:
        store = self._open_store()
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
        callee = request.supervision.agent or _agent_of(request.task)
        call: Any = commands.begin_wait(store.keys, incarnation, request.id, queue_name(request), caller, callee)
        try:
            ring = Ring.decode(store.run(*call))
            if ring is not None:
                threading.Event().wait(_LASTS_S)
                ring = Ring.decode(store.run(*call))
        except BrokerUnavailable as error:
            logger.debug("not looked for a ring of calls: %s", error)
            return
        if ring is None:
            return
        no_slot = ring.no_slot(incarnation)
        emit(events.DEADLOCK, agent=caller, message=request.supervision.message, ring=str(ring), no_slot=no_slot)
        if raises:
            raise CallWouldDeadlock(ring.agents, no_slot)
        logger.warning(
            "call of %s by %s waits for itself: %s; %s",
            request.task,
            caller,
            ring,
            no_slot or "all slots of their workers wait in calls",
        )


def _agent_of(task: str) -> str:
    """The agent of a task; of a plain task, its module."""
    return task.rpartition(".")[0] or task
