"""Ends a process when the process that started it is gone, also after a SIGKILL."""

from __future__ import annotations

import os
import threading

#: Process id of the owner.
VARIABLE = "ENDS_WITH_OWNER"

_LOOK_EVERY_S = 0.5


def end_with_owner() -> None:
    """Have this process watch its owner, if it has one."""
    owner = os.environ.get(VARIABLE)
    if owner:
        threading.Thread(target=_end_with, args=(int(owner),), name="owner", daemon=True).start()


def _end_with(owner_pid: int) -> None:
    never = threading.Event()
    while True:
        try:
            os.kill(owner_pid, 0)
        except ProcessLookupError:
            os._exit(1)
        never.wait(_LOOK_EVERY_S)
