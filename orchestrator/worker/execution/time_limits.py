"""The time limits of an attempt.

A prefork pool interrupts its processes itself (Celery's soft time limit) and kills those that continue (the hard one).
In a main thread, where a solo pool and eager mode run a handler, an alarm of the kernel interrupts it. Nothing can
interrupt a thread or a greenlet: there, an attempt that took too long is logged when it ends.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from time import monotonic
from types import FrameType
from typing import Any, Final

from billiard.process import current_process
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.exceptions import SoftTimeLimitExceeded
from kombu.utils.compat import detect_environment

from orchestrator.celery_types import Pool
from orchestrator.core.errors import DeadlinePassed, HandlerTimeout
from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: Seconds after which a handler that has swallowed an interruption is interrupted again.
_INTERRUPTED_AGAIN_AFTER_S = 5.0

#: Python's ``signal`` looks each handler up in an enum; that a function is none takes it 4 µs, three times an attempt.
_IN_C: Final = import_module("_signal")
_set_handler: Final[Callable[[int, Any], Any]] = _IN_C.signal
_get_handler: Final[Callable[[int], Any]] = _IN_C.getsignal

#: The shortest limit that a prefork pool is given. Its signal must not reach a process that has not begun yet: it
#: would end the process.
_SHORTEST_IN_POOL_S: Final = 0.05


def pool_limits(
    pool: Pool, hard_s: float | None, soft_s: float | None, limit_s: float | None, kill_after_s: float
) -> tuple[float | None, float | None]:
    """Celery's hard and soft limit for an attempt, in seconds: the task's (or worker's), or the send's if it is less.

    Only a prefork pool gets the send's ``limit_s``: it can interrupt its processes, and kill those that continue for
    another ``kill_after_s``.
    """
    if limit_s is None or limit_s <= 0 or not isinstance(pool, PreforkPool):
        return hard_s, soft_s
    limit_s = max(limit_s, _SHORTEST_IN_POOL_S)
    # The pool has its worker's limits as defaults, which any explicit limit replaces.
    hard_s, soft_s = hard_s or pool.options.get("timeout"), soft_s or pool.options.get("soft_timeout")
    kill_s = limit_s + kill_after_s
    hard_s, soft_s = min(hard_s or kill_s, kill_s), min(soft_s or limit_s, limit_s)
    # The pool starts to count for the hard limit when the soft one has passed.
    return hard_s, soft_s if soft_s < hard_s else None


def within(limit_s: float, task: str, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call ``run`` and return its result, interrupted after ``limit_s`` seconds where that is possible.

    Raises:
        DeadlinePassed: no time is left, so ``run`` was not called.
        HandlerTimeout: ``run`` was interrupted by ``SoftTimeLimitExceeded``, which it may have caught to clean up.
    """
    if limit_s <= 0:
        raise DeadlinePassed(task, round(-limit_s, 3))
    began = monotonic()
    try:
        result = _alarmed(limit_s, run, args, kwargs) if _can_alarm(limit_s) else run(*args, **kwargs)
    except SoftTimeLimitExceeded as error:
        if monotonic() - began < limit_s * 0.9:
            # Raised by the handler itself, or by a shorter limit of the task.
            raise
        raise HandlerTimeout(task, float(f"{limit_s:.3g}")) from error
    took_s = monotonic() - began
    if took_s > limit_s:
        logger.warning("%s took %.3f s; allowed: %.3f s; this pool cannot interrupt it", task, took_s, limit_s)
    return result


def _can_alarm(limit_s: float) -> bool:
    # A process has one alarm. An earlier one of other code is left alone; a later one is set again afterwards.
    others_s = signal.getitimer(signal.ITIMER_REAL)[0]
    return (
        # Only processes of billiard's pools have an index; their main process enforces their limits.
        getattr(current_process(), "index", None) is None
        and threading.current_thread() is threading.main_thread()
        and detect_environment() == "default"
        and (not others_s or others_s > limit_s)
        and _get_handler(signal.SIGALRM) is not None
    )


def _alarmed(limit_s: float, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    here, has_rung = sys._getframe(), False

    def ring(signum: int, frame: FrameType | None) -> None:
        """Interrupt the handler, but nothing else: an alarm may ring before it is called, or when it has returned."""
        nonlocal has_rung
        has_rung = True
        if frame is not here and _is_within(frame, here):
            raise SoftTimeLimitExceeded(limit_s)

    began = monotonic()
    handler_before = _set_handler(signal.SIGALRM, ring)
    others_s, others_again_s = signal.setitimer(signal.ITIMER_REAL, limit_s, _INTERRUPTED_AGAIN_AFTER_S)
    try:
        if has_rung:
            raise SoftTimeLimitExceeded(limit_s)
        return run(*args, **kwargs)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_handler(signal.SIGALRM, handler_before)
        if others_s:
            signal.setitimer(signal.ITIMER_REAL, max(others_s - (monotonic() - began), 0.001), others_again_s)


def _is_within(frame: FrameType | None, caller: FrameType) -> bool:
    """Whether what runs in a frame was called from another one, directly or not."""
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is caller
