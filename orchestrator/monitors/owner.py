"""The owner of a monitor: the incarnation whose handler runs here, or the session that is open here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celery import Celery

from orchestrator.core.errors import InvalidPolicy, NoOwner
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.worker.execution import supervision_of


@dataclass(frozen=True, slots=True)
class Owner:
    """An incarnation together with the agent in whose name it acts, or a session (no agent)."""

    id: str
    agent: str = ""


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
