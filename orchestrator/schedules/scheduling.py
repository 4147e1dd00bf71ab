"""Puts a scheduler together, for a beat or for a worker in a beat's place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from celery import Celery
from celery.beat import ScheduleEntry

from orchestrator.agents.directory import Directory
from orchestrator.core.errors import InvalidPolicy, InvalidSchedule
from orchestrator.core.forks import lazy_property
from orchestrator.core.log import get_logger
from orchestrator.core.schedule_definition import ScheduleDefinition
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedule_values import TaskRecipient
from orchestrator.core.settings import Settings
from orchestrator.core.triggers import Foreign
from orchestrator.schedules.bell import Bell
from orchestrator.schedules.celery_schedules import NextAfter, next_after_of
from orchestrator.schedules.due import Due
from orchestrator.schedules.due_check import DueCheck
from orchestrator.schedules.fire_kinds import is_as_beat_sends
from orchestrator.schedules.fire_writer import FireWriter
from orchestrator.schedules.firing import Firing
from orchestrator.schedules.housekeeping_message import HousekeepingRounds
from orchestrator.schedules.redis_schedules import RedisSchedules
from orchestrator.schedules.service import ScheduleService
from orchestrator.schedules.static_schedules import StaticSchedule, StaticSchedules, checked, schedules_of_agent
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: Between two signs of a scheduler that it declares its schedules.
_RENEW_S: Final = 5.0

#: Between two searches for static schedules that nobody declares.
_RETIRE_S: Final = 10.0


class Scheduling:
    """The schedules of one app in its Redis."""

    def __init__(self, app: Celery, store: Callable[[], Store], directory: Directory, settings: Settings) -> None:
        self._app = app
        self._store = store
        self._directory = directory
        self._settings = settings

    @property
    def app_name(self) -> str:
        """What the app's static schedules are known by."""
        return str(self._app.main or "app")

    @lazy_property
    def schedules(self) -> RedisSchedules:
        """The schedules as users act on them."""
        s = self._settings
        writer = FireWriter(self._app, self._directory, s.redact)
        return RedisSchedules(
            self._store, s.schedules_most, s.schedule_history, self.next_after_of, writer, self.app_name
        )

    def next_after_of(self, trigger: Foreign) -> NextAfter | None:
        """The times that Celery's classes compute; ``None`` if only the code that declares them has them."""
        return next_after_of(self._app, trigger)

    def may_declare_entries(self, has_waited: bool) -> bool:
        """Whether a worker in beat's place may declare the entries of ``beat_schedule``.

        A beat has declared some, or the worker has waited for one; and no other scheduler fires them.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        k, name = self._store().keys, self.app_name
        if self.schedules.ask(lambda client: client.hexists(k.scheduler, f"elsewhere:{name}")):
            return False
        return has_waited or bool(self.schedules.of_owner(f"s:{name}"))

    def give_entries_up(self) -> None:
        """Another scheduler fires the entries of ``beat_schedule``: remove those that are here.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        for schedule_id in self.schedules.give_entries_up(self.app_name):
            logger.warning("schedule %s is removed: a beat with another scheduler fires it from now on", schedule_id)

    def check_entries(self, entries: Mapping[str, ScheduleEntry]) -> list[StaticSchedule]:
        """The static schedules of this app: its agents' and these entries'.

        Raises:
            InvalidSchedule: some entries cannot be schedules; names all of them.
        """
        of_agents = [one for spec in self._directory.declared.values() for one in schedules_of_agent(spec)]
        of_entries = checked(self._app, entries)
        faults = [fault for one in of_entries if (fault := self._cannot_be_supervised(one.definition))]
        if faults:
            raise InvalidSchedule("", faults)
        return [*of_agents, *of_entries]

    def _cannot_be_supervised(self, definition: ScheduleDefinition) -> ScheduleFault | None:
        """Why an entry that asks for a supervised send cannot have it."""
        recipient = definition.recipient
        if is_as_beat_sends(definition) or not isinstance(recipient, TaskRecipient):
            return None
        why = ""
        try:
            if self._directory.by_task(recipient.task) is None:
                self.schedules.check(definition)
            else:
                why = (
                    f"{recipient.task} is an agent's, whose policy it has; allowed: Celery's options, or schedules.add"
                )
        except InvalidPolicy as error:
            why = str(error)
        said, _, allowed = why.partition("; allowed: ")
        return ScheduleFault("", f"beat_schedule[{definition.id!r}].options: {said}", allowed) if why else None

    def service(
        self,
        name: str,
        entries: Callable[[], Mapping[str, ScheduleEntry]],
        *,
        is_beat: bool,
        stopped: threading.Event,
        stale_s: float = 0.0,
    ) -> ScheduleService:
        """A scheduler that fires all schedules in Redis, and declares these entries; a beat also starts housekeeping.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store()
        writer = FireWriter(self._app, self._directory, self._settings.redact)
        firing = Firing(
            CommandConnection(store.pool),
            store.keys,
            writer,
            name,
            most_history=self._settings.schedule_history,
            next_after_of=self.next_after_of,
            housekeeping=HousekeepingRounds(self._settings.sweep_interval_s, lambda: writer.channel)
            if is_beat
            else None,
        )
        of_code = StaticSchedules(self.app_name, self._store, self.schedules, name)

        def declare() -> int:
            declared = self.check_entries(entries())
            firing.bound = of_code.declare(declared, is_beat=is_beat)
            firing.bound_ids = tuple(one.definition.id for one in declared if one.definition.is_code_bound)
            return len(declared)

        return ScheduleService(
            firing,
            Bell(store.pool, store.keys.schedules_bell, stopped),
            name,
            stale_s=stale_s,
            declare=declare,
            duties=_Duties(of_code if is_beat else None, DueCheck(self.schedules)).do,
            rate=self._settings.scheduler_rate,
            stopped=stopped,
        )


class _Duties:
    """What a scheduler does besides firing."""

    def __init__(self, of_code: StaticSchedules | None, check: DueCheck) -> None:
        #: What a beat declares.
        self._of_code = of_code
        self._check = check
        self._renew_at = monotonic() + _RENEW_S
        self._retire_at = 0.0

    def do(self, due: Due) -> None:
        """Give a sign of life, and remove what nobody declares, if it is a beat; find what should be due and is not."""
        now, of_code = monotonic(), self._of_code
        if of_code is not None and now >= self._renew_at:
            self._renew_at = now + _RENEW_S
            of_code.renew()
        if of_code is not None and due.is_mine and now >= self._retire_at:
            self._retire_at = now + _RETIRE_S
            of_code.retire()
        self._check.look(due)
