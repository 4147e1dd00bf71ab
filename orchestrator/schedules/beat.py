"""`celery beat -S orchestrator`: Celery's scheduler, whose schedules are in Redis and fired by any number of beats."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import click
from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import ImproperlyConfigured

from orchestrator.core.errors import BrokerUnavailable, InvalidSchedule
from orchestrator.core.log import get_logger
from orchestrator.core.plural import counted
from orchestrator.schedules.declared.static_schedules import StaticSchedule, with_names
from orchestrator.schedules.firing.failed_passes import FailedPasses
from orchestrator.schedules.firing.service import ScheduleService, scheduler_name
from orchestrator.transport.redis.refusals import may_pass
from orchestrator.transport.transport import why_not_supervised

logger = get_logger(__name__)


#: The exit code of a command that was called with something that it cannot use.
_USAGE = 2


class OrchestratorScheduler(Scheduler):
    """Declares the entries of ``beat_schedule`` in Redis, and fires all schedules that are there.

    Run as many beats as you like, also within workers (``worker -B``): each due time is accepted once. The entries are
    read as Celery reads them; what is added to :attr:`schedule` while beat runs is declared with the next tick.
    """

    Entry = ScheduleEntry

    #: Unlike the schedulers of others, whose entries no worker may fire in their place.
    fires_from_redis = True

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(app, "orchestrator", None) is None:
            raise ImproperlyConfigured("beat -S orchestrator: the app has no Orchestrator; allowed: Orchestrator(app)")
        if why := why_not_supervised(app.conf):
            raise ImproperlyConfigured(f"beat -S orchestrator: {why}; allowed: a Redis broker, or another scheduler")
        self._runtime = app.orchestrator.runtime
        self._scheduler_name = scheduler_name("beat")
        self._service: ScheduleService | None = None
        self._stopped = threading.Event()
        self._seen: Mapping[str, ScheduleEntry] | None = None
        #: While Redis is not there yet.
        self._failed_starts = FailedPasses(self._scheduler_name)
        super().__init__(app, *args, **kwargs)

    def setup_schedule(self) -> None:
        """Read the entries, and refuse what cannot be a schedule.

        Raises:
            InvalidSchedule: some entries cannot; names all of them, their values and what is allowed.
        """
        try:
            with_names(self.app.conf.beat_schedule, self.app)
            # In the order of Celery's persistent scheduler: to merge is to remove what is not in the setting.
            self.merge_inplace(self.app.conf.beat_schedule)
            self.install_default_entries(self.schedule)
            self._check_recipients(self._runtime.redis.scheduling.check_entries(self.schedule))
        except InvalidSchedule as error:
            if click.get_current_context(silent=True) is None:
                raise
            # The command ends with 2, and without Celery's traceback.
            logger.critical("%s", error)
            raise SystemExit(_USAGE) from None

    def _check_recipients(self, static: list[StaticSchedule]) -> None:
        try:
            faults = self._runtime.redis.scheduling.mistaken(static)
        except BrokerUnavailable:
            # The first tick that finds Redis there leaves out what is a mistake.
            return
        if faults:
            raise InvalidSchedule("", faults.values())

    # -- firing

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due, and wait until more is due, something has changed or a second has passed.

        Raises:
            BrokerUnavailable: Redis refuses for good, as with a wrong password.
        """
        try:
            service = self._opened()
        except BrokerUnavailable as error:
            # A beat may start before its Redis, or while that loads its data.
            if not may_pass(error):
                raise
            self._stopped.wait(self._failed_starts.log(error))
            return 0.0
        self._failed_starts.end()
        if self._has_changed():
            service.declare_again()
        wait_s = service.tick()
        service.wait(min(wait_s, self.max_interval))
        return 0.0

    def _opened(self) -> ScheduleService:
        if self._service is None:
            self._service = self._runtime.redis.scheduling.service(
                self._scheduler_name, lambda: self.schedule, is_beat=True, stopped=self._stopped
            )
            self._seen = dict(self.schedule)
        return self._service

    def _has_changed(self) -> bool:
        if self._seen is None or self.schedules_equal(self._seen, self.schedule):
            return False
        self._seen = dict(self.schedule)
        return True

    # -- what Celery asks for

    def sync(self) -> None:
        """Nothing: each fire is recorded in Redis with its message."""

    def close(self) -> None:
        """Give the turn to another beat. The schedules stay, and go on when a scheduler is there again."""
        service, self._service = self._service, None
        if service is not None:
            service.close()
        super().close()

    @property
    def info(self) -> str:
        """A line of beat's banner."""
        entries = counted(len(self.app.conf.beat_schedule or ()), "entry", "entries")
        return f"    . db -> Redis, with {entries} of beat_schedule"
