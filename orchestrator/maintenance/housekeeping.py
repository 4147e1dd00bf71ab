"""The part of housekeeping that runs in a worker: Celery's consumer takes the message, a thread does the work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from orchestrator.core.forks import lazy_property
from orchestrator.core.housekeeping import HOUSEKEEPING_MESSAGE
from orchestrator.core.log import get_logger

if TYPE_CHECKING:
    from orchestrator.maintenance.manager import Manager

logger = get_logger(__name__)


class HousekeepingThread:
    """Runs ``work`` once per request, in one thread. Requests that come while it runs count as one."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._requested = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def request(self) -> None:
        """Have the work done soon."""
        self._stopping = False
        self._requested.set()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="orchestrator-housekeeping", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Log no errors until the next request: the worker stops, or its connection is lost."""
        self._stopping = True

    def _run(self) -> None:
        while self._requested.wait():
            self._requested.clear()
            try:
                self._work()
            except Exception as error:
                if self._stopping:
                    logger.debug("housekeeping interrupted", exc_info=True)
                else:
                    logger.error(
                        "housekeeping failed, the next message starts it again: %s: %s", type(error).__name__, error
                    )


class Housekeeping(bootsteps.StartStopStep):
    """Registers a strategy for the housekeeping message.

    The message is no task: no tracer, no request, no task event, no signal of Celery and no slot of the pool.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._orchestrator: Any = getattr(consumer.app, "orchestrator", None)
        self._thread = None if self._orchestrator is None else HousekeepingThread(lambda: self._manager.run())

    @lazy_property
    def _manager(self) -> Manager:
        # Made for the first message: other workers do not import it.
        from orchestrator.maintenance.manager import Manager

        return Manager(self._orchestrator.runtime)

    def start(self, consumer: Any) -> None:
        """Called on every (re)connection, after Celery has renewed its strategies."""
        thread = self._thread
        if thread is None:
            return

        def housekeeping_strategy(message: Any, *_: Any, **__: Any) -> None:
            # Acknowledged early: the next round does what an interrupted one has left.
            message.ack_log_error(logger, consumer.connection_errors)
            thread.request()

        consumer.strategies[HOUSEKEEPING_MESSAGE] = housekeeping_strategy

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker stops."""
        if self._thread is not None:
            self._thread.stop()
