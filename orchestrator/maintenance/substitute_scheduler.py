"""A worker schedules in the place of beat while no beat does."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from celery import bootsteps
from celery.beat import ScheduleEntry

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.log import get_logger
from orchestrator.schedules.declared.static_schedules import with_names
from orchestrator.schedules.firing.service import ScheduleService, scheduler_name
from orchestrator.worker.bootsteps.consuming_thread import ConsumingThread
from orchestrator.worker.configuration import SCHEDULER

logger = get_logger(__name__)

#: For how long a worker waits for a beat before it declares entries that nobody has declared yet. Where all is started
#: for the first time, a beat with another scheduler may come a few seconds after the worker.
_FIRST_BEAT_S: Final = 10.0

#: Between two attempts to reach a Redis that is away at the start.
_AGAIN_S: Final = 1.0


class SubstituteScheduler:
    """A thread that fires schedules if no beat has for a while.

    It declares what its app's code has and Redis lacks: periodic methods, and the entries of ``beat_schedule`` unless
    another scheduler fires them. Where no beat has ever declared entries, it gives one 10 s to come.
    """

    def __init__(self, runtime: Any, stale_s: float) -> None:
        self._runtime = runtime
        self._stale_s = stale_s
        self._thread = ConsumingThread(self._run, "orchestrator-substitute-scheduler")
        self._began_at = monotonic()

    def start(self) -> None:
        """Fire from now on what no beat fires."""
        self._thread.start()

    def stop(self) -> None:
        """Fire nothing more; does not wait for the pass that runs."""
        self._thread.stop()

    def _run(self, stopped: threading.Event) -> None:
        service = None
        while service is None and not stopped.is_set():
            try:
                service = self._runtime.redis.scheduling.service(
                    scheduler_name("worker"),
                    self._entries,
                    is_beat=False,
                    stopped=stopped,
                    stale_s=self._stale_s,
                )
            except OrchestratorError as error:
                logger.debug("no substitute scheduler yet: %s", error)
                stopped.wait(_AGAIN_S)
        if service is not None:
            self._serve(service, stopped)

    def _entries(self) -> Mapping[str, ScheduleEntry]:
        app, scheduling = self._runtime.app, self._runtime.redis.scheduling
        if app.conf.beat_scheduler != SCHEDULER or not scheduling.may_declare_entries(self._has_waited()):
            return {}
        return with_names(app.conf.beat_schedule or {}, app)

    def _has_waited(self) -> bool:
        return monotonic() - self._began_at > _FIRST_BEAT_S

    def _serve(self, service: ScheduleService, stopped: threading.Event) -> None:
        looks_again = True
        while not stopped.is_set():
            try:
                if looks_again and self._has_waited():
                    looks_again = False
                    service.declare_again()
                wait_s = service.tick()
            except Exception:
                logger.exception("a pass of the substitute scheduler failed")
                wait_s = _AGAIN_S
            service.wait(wait_s)
        service.close()


class ScheduleInPlaceOfBeat(bootsteps.StartStopStep):
    """Starts the substitute scheduler with a worker's consumer. A worker of the monitor manager is the first to act."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        orchestrator = getattr(consumer.app, "orchestrator", None)
        self._scheduler: SubstituteScheduler | None = None
        if orchestrator is None or not orchestrator.runtime.is_supervised:
            return
        stale_s = orchestrator.settings.scheduler_stale_s
        is_manager = HOUSEKEEPING_QUEUE in consumer.app.amqp.queues.consume_from
        self._scheduler = SubstituteScheduler(orchestrator.runtime, stale_s if is_manager else 2 * stale_s)

    def start(self, consumer: Any) -> None:
        """Called on every (re)connection."""
        if self._scheduler is not None:
            self._scheduler.start()

    def stop(self, consumer: Any) -> None:
        """The connection is lost, or the worker stops."""
        if self._scheduler is not None:
            self._scheduler.stop()
