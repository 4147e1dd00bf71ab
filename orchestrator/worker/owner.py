"""The owner of monitors and leases: the incarnation whose handler runs here, or the session that is open here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery

from orchestrator.core.errors import InvalidPolicy, NoOwner
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.worker.execution import supervision_of


@dataclass(frozen=True, slots=True)
class Owner:
    """An incarnation together with the agent in whose name it acts, or a session (no agent)."""

    id: str
    agent: str = ""
    #: The entry of the attempt that runs, as ``ID@STREAM``: what it holds ends with it. Empty for a session; of a task
    #: that acknowledges early ``early`` and its id.
    entry: str = ""


#: Begins what stands for the entry of an attempt that is acknowledged early; as in ``named_leases.lua``.
EARLY: Final = "early"

#: Longest allowed wait for a DOWN: a day.
_MAX_WAIT_S = 24 * 3600.0


def checked_wait(timeout_s: float) -> float:
    """The time to wait, in seconds.

    Raises:
        InvalidPolicy: it is not a number from 0 to a day.
    """
    if not isinstance(timeout_s, int | float) or not 0 <= timeout_s <= _MAX_WAIT_S:
        raise InvalidPolicy("timeout_s", timeout_s, f"a number from 0 to {_MAX_WAIT_S:g}")
    return timeout_s


#: The innermost session that is open in this thread (or asyncio task).
open_session: ContextVar[Owner | None] = ContextVar("orchestrator_session", default=None)


def owner_here(app: Celery) -> Owner:
    """The owner of a monitor that is created here.

    Raises:
        NoOwner: no session is open and no agent's handler runs.
    """
    session = open_session.get()
    if session is not None:
        return session
    task: Any = app.current_task
    if task is not None:
        incarnation = own_field(task.request, INCARNATION)
        supervision = supervision_of(task.request)
        if isinstance(incarnation, str) and incarnation and supervision is not None and supervision.agent:
            return Owner(incarnation, supervision.agent)
    raise NoOwner


def attempt_here(app: Celery, what: str) -> Owner:
    """The owner of ``what`` is acquired here: the attempt of a message, a task's too, or the session that is open.

    Raises:
        NoOwner: no session is open and no worker runs a message here.
    """
    session = open_session.get()
    if session is not None:
        return session
    task: Any = app.current_task
    incarnation = None if task is None else own_field(task.request, INCARNATION)
    if not isinstance(incarnation, str) or not incarnation:
        raise NoOwner(what)
    supervision = supervision_of(task.request)
    tag = (task.request.properties or {}).get("delivery_tag")
    entry = tag if isinstance(tag, str) else ""
    if entry and not task.acks_late:
        # It has no entry while it runs, and is another owner than the worker's other attempts all the same.
        entry = f"{EARLY} {task.request.id}"
    return Owner(incarnation, "" if supervision is None else supervision.agent, entry)
