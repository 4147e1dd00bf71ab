"""Finds out why a worker ends, as far as only Celery knows, and passes it to the transport, which records it."""

from __future__ import annotations

import sys
from typing import Any

from celery import bootsteps
from celery.platforms import EX_OK
from celery.worker import state as worker_state
from celery.worker.control import control_command

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.log import get_logger
from orchestrator.transport.liveness.process_incarnations import PROCESS_INCARNATIONS

logger = get_logger(__name__)


class RecordExitReason(bootsteps.StartStopStep):
    """A step of the worker: notes the error that ends it, if one does."""

    def stop(self, parent: Any) -> None:
        """Called on every way out, and by Celery while it handles the error."""
        error = sys.exception()
        if isinstance(error, Exception):
            PROCESS_INCARNATIONS.ending = DeathReason.CRASHED, f"{type(error).__name__}: {error}"


@control_command()
def deploy(state: Any, **_: Any) -> dict[str, str]:
    """``celery control deploy``: a warm shutdown that the record of deaths calls a deployment.

    It is requested as a signal handler requests one, not raised: the reply is sent after this returns, and what a
    greenlet raises does not reach the worker.
    """
    logger.warning("worker shuts down: a deployment replaces it")
    PROCESS_INCARNATIONS.ending = DeathReason.DEPLOYED, ""
    worker_state.should_stop = EX_OK
    return {"ok": "shutting down for a deployment"}
