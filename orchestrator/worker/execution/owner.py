"""The owner of monitors and leases: the attempt whose handler runs here, or the session that is open here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.errors import InvalidPolicy, NoOwner
from orchestrator.transport.celery.own_fields import INCARNATION, own_field
from orchestrator.worker.execution.running_attempt import INNERMOST, RunningAttempt, innermost


@dataclass(frozen=True, slots=True)
class Owner:
    """An incarnation together with the agent in whose name it acts, or a session (no agent)."""

    id: str
    agent: str = ""
    #: The entry of the attempt that runs, as ``ID@STREAM``: what it holds ends with it. Empty for a session; of a task
    #: that acknowledges early ``early`` and its id.
    entry: str = ""
    #: The id of the attempt's delivery. Empty for a session.
    delivery: str = ""
    #: The process that it acts in: a forked child is another one.
    pid: int = field(default_factory=os.getpid, compare=False, repr=False)

    def is_inherited(self) -> bool:
        """Whether this process is a fork of the owner's."""
        return self.pid != os.getpid()

    def refuse_fork(self, what: str) -> None:
        """Refuse to act as this owner in a forked child.

        Raises:
            NoOwner: this process is a fork of the owner's.
        """
        if self.is_inherited():
            raise NoOwner(what, forked=True)


#: Begins what stands for the entry of an attempt that is acknowledged early; as in ``named_leases.lua``.
EARLY: Final = "early"

#: Longest allowed wait for a DOWN: a day.
_MAX_WAIT_S = 24 * 3600.0


def checked_wait(timeout_s: float) -> float:
    """The time to wait, in seconds.

    Raises:
        InvalidPolicy: it is not a number from 0 to a day.
    """
    if not is_number(timeout_s, 0, _MAX_WAIT_S):
        raise InvalidPolicy("timeout_s", timeout_s, f"a number from 0 to {_MAX_WAIT_S:g}")
    return timeout_s


class OpenSession:
    """The block of a session, which owns what is acquired in it, except by attempts that run in it."""

    __slots__ = ("_outer", "_owner")

    def __init__(self, owner: Owner) -> None:
        self._owner, self._outer = owner, INNERMOST.get()
        INNERMOST.set(owner)

    def close(self) -> None:
        """End the block. In a thread other than the one that opened it, there is nothing to undo."""
        if INNERMOST.get() is self._owner:
            INNERMOST.set(self._outer)


def owner_here() -> Owner:
    """The owner of a monitor that is created here.

    Raises:
        NoOwner: no session is open and no agent's handler runs.
    """
    owner = attempt_here()
    if isinstance(innermost(), RunningAttempt) and not owner.agent:
        raise NoOwner
    return owner


def attempt_here(what: str = "monitor") -> Owner:
    """The owner of ``what`` is acquired here: the attempt of a message, a task's too, or the session that is open.

    Raises:
        NoOwner: no session is open and no worker runs a message here, or this process is a fork of the owner's.
    """
    here = innermost()
    if here is not None and here.is_inherited():
        raise NoOwner(what, forked=True)
    if isinstance(here, Owner):
        return here
    incarnation = None if here is None or here.has_ended else own_field(here.request, INCARNATION)
    if here is None or not isinstance(incarnation, str) or not incarnation:
        raise NoOwner(what)
    request = here.request
    tag = (request.properties or {}).get("delivery_tag")
    entry = tag if isinstance(tag, str) else ""
    if entry and not here.task.acks_late:
        # It has no entry while it runs, and is another owner than the worker's other attempts all the same.
        entry = f"{EARLY} {request.id}"
    return Owner(incarnation, "" if here.supervision is None else here.supervision.agent, entry, str(request.id))
