"""Puts a scheduler together, for a beat or for a worker in a beat's place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Final

from celery import Celery
from celery.beat import ScheduleEntry

from orchestrator.agents.directory import Directory
from orchestrator.core.errors import InvalidPolicy, InvalidSchedule
from orchestrator.core.forks import lazy_property
from orchestrator.core.log import get_logger
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.triggers import Foreign
from orchestrator.core.schedules.values import TaskRecipient
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.settings import Settings
from orchestrator.schedules.declared.celery_schedules import NextAfter, next_after_of
from orchestrator.schedules.declared.entry_recipients import ELSEWHERE, EntryRecipients
from orchestrator.schedules.declared.static_schedules import (
    StaticSchedule,
    StaticSchedules,
    checked,
    schedules_of_agent,
)
from orchestrator.schedules.firing.bell import Bell
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.firing.due_check import DueCheck
from orchestrator.schedules.firing.fire_kinds import is_as_beat_sends
from orchestrator.schedules.firing.fire_writer import FireWriter
from orchestrator.schedules.firing.one_pass import Firing
from orchestrator.schedules.firing.service import ScheduleService
from orchestrator.schedules.housekeeping_message import HousekeepingRounds
from orchestrator.schedules.redis.redis_schedules import RedisSchedules
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
        #: The entries, with their tasks, whose tasks were known once: Redis may forget the agents that it knew.
        self._known: set[tuple[str, str]] = set()

    @property
    def app_name(self) -> str:
        """The name under which the app declares its static schedules."""
        return str(self._app.main or "app")

    @lazy_property
    def schedules(self) -> RedisSchedules:
        """The schedules as users act on them."""
        settings = self._settings
        writer = FireWriter(self._app, self._directory, settings.redact)
        return RedisSchedules(
            self._store, settings.schedules_most, settings.schedule_history, self.next_after_of, writer, self.app_name
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

    def mistaken(self, static: Iterable[StaticSchedule]) -> dict[str, ScheduleFault]:
        """The entries whose tasks are mistakes, by ids: an agent has no such message, or a task has a similar name.

        A task that nothing here has, and that is similar to none, may be another app's; a warning names it. Entries
        whose tasks were known once are not looked at again.

        Raises:
            BrokerUnavailable: Redis is away, which knows what agents workers have announced.
        """
        of_code = EntryRecipients(self._app, {}, self._settings.foreign_tasks)
        new = {_named(one.definition): one.definition for one in static if not of_code.knows(one.definition)}
        for name in self._known & new.keys():
            del new[name]
        if not new:
            return {}
        recipients = EntryRecipients(self._app, self._directory.messages(), self._settings.foreign_tasks)
        faults = {one.id: fault for one in new.values() if (fault := recipients.fault(one))}
        accepted = {name: one for name, one in new.items() if one.id not in faults}
        self._known.update(accepted)
        if unknown := recipients.unknown(accepted.values()):
            logger.warning(
                "beat_schedule: neither this app nor an agent has %s; each fire is sent by its name, and is an error "
                "in a worker that does not have it; allowed: %s",
                ", ".join(map(masked_repr, unknown)),
                ELSEWHERE,
            )
        return faults

    def _cannot_be_supervised(self, definition: ScheduleDefinition) -> ScheduleFault | None:
        """The reason why an entry that asks for a supervised send cannot have it."""
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

    def _without_mistakes(self, static: list[StaticSchedule]) -> list[StaticSchedule]:
        """Leave the entries out whose tasks are mistakes: what was added while beat runs, or Redis was away before."""
        faults = self.mistaken(static)
        for fault in faults.values():
            logger.error("beat_schedule: an entry is left out: %s", fault)
        return [one for one in static if one.definition.id not in faults]

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

        def declare() -> None:
            declared = self._without_mistakes(self.check_entries(entries()))
            firing.bound = of_code.declare(declared, is_beat=is_beat)
            firing.bound_ids = tuple(one.definition.id for one in declared if one.definition.is_code_bound)

        return ScheduleService(
            firing,
            Bell(store.pool, store.keys.schedules_bell, stopped),
            name,
            stale_s=stale_s,
            declare=declare,
            count=of_code.count,
            duties=_Duties(of_code if is_beat else None, DueCheck(self.schedules)).do,
            rate=self._settings.scheduler_rate,
            stopped=stopped,
        )


def _named(definition: ScheduleDefinition) -> tuple[str, str]:
    recipient = definition.recipient
    return definition.id, recipient.task if isinstance(recipient, TaskRecipient) else ""


class _Duties:
    """The duties of a scheduler besides firing."""

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
