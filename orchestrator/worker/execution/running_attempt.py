"""The attempt that runs here, and the callbacks for its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from orchestrator.core.log import get_logger

if TYPE_CHECKING:
    from orchestrator.core.deliveries.supervision import Supervision
    from orchestrator.worker.execution.owner import Owner

logger = get_logger(__name__)


class RunningAttempt:
    """An attempt while user code runs for it."""

    __slots__ = ("_callbacks", "_pid", "has_ended", "outer", "request", "supervision", "task")

    def __init__(
        self, task: Any, request: Any, supervision: Supervision | None, outer: RunningAttempt | Owner | None
    ) -> None:
        self.task = task
        self.request = request
        self.supervision = supervision
        #: What was the innermost before it.
        self.outer = outer
        self.has_ended = False
        self._pid = os.getpid()
        self._callbacks: list[Callable[[], Any]] | None = None

    def is_inline(self) -> bool:
        """Whether user code runs it by ``apply``, without a message. In eager mode, ``apply`` handles a message."""
        return bool(self.request.is_eager) and not self.task.app.orchestrator.eager

    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that runs it."""
        return self._pid != os.getpid()

    def at_end(self, callback: Callable[[], Any]) -> None:
        """Have ``callback`` called when it ends, unless its process is killed before."""
        if self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def end(self) -> None:
        """User code runs no more."""
        self.has_ended = True
        if self.is_inherited():
            # It goes on in the parent.
            return
        for callback in reversed(self._callbacks or ()):
            try:
                callback()
            except Exception:
                # What the handler has done counts all the same.
                logger.exception("a callback for the end of an attempt failed")


#: The innermost of the attempts that run and the sessions that are open, in this thread, greenlet or asyncio task.
#: Asyncio tasks share the object, so what they add to an attempt is done when it ends.
INNERMOST: Final[ContextVar[RunningAttempt | Owner | None]] = ContextVar("orchestrator_innermost", default=None)


def innermost() -> RunningAttempt | Owner | None:
    """The attempt whose handler runs here, or the owner of the session that is open here, whichever began later."""
    here = INNERMOST.get()
    while isinstance(here, RunningAttempt) and here.is_inline():
        here = here.outer
    return here


def at_end(callback: Callable[[], Any]) -> None:
    """Have ``callback`` called when the attempt that runs here ends, unless its process is killed before."""
    here = innermost()
    if isinstance(here, RunningAttempt):
        here.at_end(callback)
