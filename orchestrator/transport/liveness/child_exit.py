"""How a pool process ended, and whether the message that it ran may be the cause."""

from __future__ import annotations

import re
import signal
from enum import Enum

from billiard.common import EX_SOFTWARE

#: Signals by which operators, supervisors and container runtimes stop processes.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

#: Exit codes of a pool process that a stop signal ended: billiard exits with SIGTERM's number, or with this code when
#: a second signal arrives meanwhile (it sends one itself to a process that reports its own end).
_STOP_EXIT_CODES = (signal.SIGTERM, EX_SOFTWARE)

_SIGNAL = re.compile(r"signal (\d+)")
_EXIT_CODE = re.compile(r"exitcode (\d+)")


class ChildEnd(Enum):
    """What the end of a pool process says of the message that it ran."""

    #: The worker is stopping and its pool with it: nothing.
    STOPPING = "stopping"
    #: A stop signal ended it while the worker goes on: somebody's signal, or the task's own.
    STOP_SIGNAL = "stop signal"
    #: It crashed, was killed, or left the interpreter (``os._exit``).
    DIED = "died"
    #: The task raised ``SystemExit``. Where the pool is not a process of its own, no process has ended.
    EXITED = "exited"


def end_of(error: BaseException, *, stopping: bool) -> ChildEnd:
    """Classify the end that Celery reports as ``error`` (WorkerLostError, or the SystemExit of the task)."""
    if stopping:
        return ChildEnd.STOPPING
    text = str(error)
    # In a solo pool Celery quotes it.
    if isinstance(error, SystemExit) or text.startswith("SystemExit("):
        return ChildEnd.EXITED
    if (found := _SIGNAL.search(text)) and int(found[1]) in _STOP_SIGNALS:
        return ChildEnd.STOP_SIGNAL
    if (found := _EXIT_CODE.search(text)) and int(found[1]) in _STOP_EXIT_CODES:
        return ChildEnd.STOP_SIGNAL
    return ChildEnd.DIED
