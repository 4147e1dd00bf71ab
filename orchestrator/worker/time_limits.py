"""The time an attempt may take, where the pool runs it.

A prefork pool interrupts its processes itself (Celery's soft time limit) and kills those that go on (the hard one).
In a main thread, which is where a solo pool and eager mode run a handler, an alarm of the operating system does the
interrupting. In a thread or a greenlet nothing can: there, that an attempt took too long is only said when it ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from billiard.process import current_process
from celery.exceptions import SoftTimeLimitExceeded
from kombu.utils.compat import detect_environment

from orchestrator.core.errors import DeadlinePassed, HandlerTimeout
from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: A handler that swallows the interruption gets another one each time so many seconds have passed.
_AGAIN_S = 5.0


def within(limit_s: float, task: str, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What ``run`` returns, if it does so in time.

    Raises:
        DeadlinePassed: it was not begun, for no time is left.
        HandlerTimeout: it was interrupted by Celery's ``SoftTimeLimitExceeded``, which it may have caught to clean up.
    """
    if limit_s <= 0:
        raise DeadlinePassed(task, round(-limit_s, 3))
    began = monotonic()
    try:
        result = _alarmed(limit_s, run, args, kwargs) if _can_alarm(limit_s) else run(*args, **kwargs)
    except SoftTimeLimitExceeded as error:
        if monotonic() - began < limit_s * 0.9:
            # Not ours: the handler's own, or a shorter limit of the task.
            raise
        raise HandlerTimeout(task, round(limit_s, 3)) from error
    took_s = monotonic() - began
    if took_s > limit_s:
        logger.warning("%s took %.3f s, allowed were %.3f s; this pool cannot interrupt it", task, took_s, limit_s)
    return result


def _can_alarm(limit_s: float) -> bool:
    # There is one alarm only. Somebody else's that comes first is left alone; a later one is put back afterwards.
    others_s = signal.getitimer(signal.ITIMER_REAL)[0]
    return (
        # Billiard numbers the processes of its pools; those have their limits from outside.
        getattr(current_process(), "index", None) is None
        and threading.current_thread() is threading.main_thread()
        and detect_environment() == "default"
        and (not others_s or others_s > limit_s)
        and signal.getsignal(signal.SIGALRM) is not None
    )


def _alarmed(limit_s: float, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    running = True

    def ring(signum: int, frame: Any) -> None:
        if running:
            raise SoftTimeLimitExceeded(limit_s)

    began = monotonic()
    handler_before = signal.signal(signal.SIGALRM, ring)
    others_s, others_again_s = signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
    try:
        result = run(*args, **kwargs)
        running = False
        return result
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
        if others_s:
            signal.setitimer(signal.ITIMER_REAL, max(others_s - (monotonic() - began), 0.001), others_again_s)
