"""Whether this process is a Celery worker that is stopping."""

from __future__ import annotations

import sys
import weakref
from typing import Any

#: Celery's bootsteps.CLOSE and TERMINATE: states of a worker's blueprint from which it does not come back.
_STOPPED_STATES = (2, 3)


class WorkerState:
    """The state of the Celery worker in this process, where there is one."""

    def __init__(self) -> None:
        self._controller: Any = None

    def watch(self) -> None:
        """Learn of the worker when it is ready; only in a process that has Celery's worker."""
        if "celery.worker" in sys.modules:
            from celery.signals import worker_ready

            worker_ready.connect(self._on_ready, dispatch_uid="orchestrator-worker-state", weak=False)

    def _on_ready(self, sender: Any, **_: Any) -> None:
        controller = getattr(sender, "controller", None)
        self._controller = None if controller is None else weakref.ref(controller)

    def is_stopping(self) -> bool:
        """Whether a signal or a remote command has told it to stop, or an error does."""
        state = sys.modules.get("celery.worker.state")
        if state is not None and any(_is_set(value) for value in (state.should_stop, state.should_terminate)):
            return True
        controller = self._controller() if self._controller is not None else None
        blueprint = getattr(controller, "blueprint", None)
        return blueprint is not None and blueprint.state in _STOPPED_STATES


def _is_set(value: object) -> bool:
    """Celery stops a worker if this is an exit code, 0 included, or True."""
    return value is not None and value is not False


WORKER_STATE = WorkerState()
