"""Schedules that are declared in code: entries of ``beat_schedule``, and methods of agents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from celery import Celery
from celery.beat import BeatLazyFunc, ScheduleEntry
from celery.schedules import crontab
from redis.exceptions import RedisError

from orchestrator.agents.spec import AgentSpec
from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.log import get_logger
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.values import AgentRecipient, Source, TaskRecipient
from orchestrator.schedules.declared.celery_schedules import trigger_of
from orchestrator.schedules.declared.entry_faults import entry_faults
from orchestrator.schedules.declared.entry_options import split_options
from orchestrator.schedules.firing.one_pass import BoundSchedule
from orchestrator.schedules.redis.writing import ScheduleWriter
from orchestrator.sending.celery_sends import has_own_way
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: For how long a scheduler that gives no sign counts as one that declares its schedules.
DECLARES_MS: Final = 15_000

#: Schedules that one call removes.
_RETIRED_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class StaticSchedule:
    """A schedule that is declared in code."""

    definition: ScheduleDefinition
    #: What only this process' code has of it; ``None`` if any scheduler may fire it.
    bound: BoundSchedule | None = None


def schedule_of(app: Celery, name: str, entry: ScheduleEntry) -> StaticSchedule:
    """The schedule that an entry of ``beat_schedule`` declares.

    Raises:
        InvalidSchedule: it cannot be one; names the value and what is allowed.
    """
    if entry.schedule is None:
        raise InvalidSchedule(name, [ScheduleFault("schedule", None, "a number of seconds, a timedelta or a schedule")])
    if not isinstance(entry.task, str) or not entry.task:
        raise InvalidSchedule(name, [ScheduleFault("task", entry.task, "the name of a task")])
    if faults := [*_argument_faults(entry)]:
        raise InvalidSchedule(name, faults)
    trigger, next_after = trigger_of(app, entry.schedule, name)
    task = app.tasks.get(entry.task)
    options, policy, metadata = split_options(entry.options or {}, any_name=task is not None and has_own_way(task))
    args, kwargs = list(entry.args or ()), dict(entry.kwargs or {})
    is_lazy = not _is_plain([args, kwargs, options])
    recipient = (
        TaskRecipient(entry.task, is_lazy=True) if is_lazy else TaskRecipient(entry.task, tuple(args), kwargs, options)
    )
    grace_s = app.conf.beat_cron_starting_deadline if isinstance(entry.schedule, crontab) else None
    definition = ScheduleDefinition(
        id=name,
        recipient=recipient,
        trigger=trigger,
        misfire_grace_s=grace_s,
        policy=policy,
        metadata=metadata,
        source=Source.STATIC,
    )
    if not is_lazy and not definition.is_code_bound:
        return StaticSchedule(definition, BoundSchedule(next_after) if next_after is not None else None)
    lazy = (lambda: _evaluated(entry, options)) if is_lazy else None
    return StaticSchedule(definition, BoundSchedule(next_after, lazy, options))


_ARGUMENTS: Final[tuple[tuple[str, tuple[type, ...], str], ...]] = (
    ("args", (list, tuple), "a list or tuple"),
    ("kwargs", (Mapping,), "a dict"),
    ("options", (Mapping,), "a dict"),
)


def _argument_faults(entry: ScheduleEntry) -> Iterator[ScheduleFault]:
    """Faults of an entry's arguments whose type Celery's beat would not send; `None` and empty values are none."""
    for field, kinds, allowed in _ARGUMENTS:
        value = getattr(entry, field)
        if value and not isinstance(value, kinds):
            yield ScheduleFault(field, value, allowed)


def schedules_of_agent(spec: AgentSpec) -> list[StaticSchedule]:
    """The schedules that the methods of an agent declare."""
    return [StaticSchedule(definition) for definition in spec.schedules]


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON data that reads back the same, so that any scheduler can send it."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _evaluated(entry: ScheduleEntry, options: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    args = [value() if isinstance(value, BeatLazyFunc) else value for value in entry.args or ()]
    kwargs = {
        name: value() if isinstance(value, BeatLazyFunc) else value for name, value in (entry.kwargs or {}).items()
    }
    return args, kwargs, dict(options)


def owners_of(app_name: str) -> tuple[str, str]:
    """The owners of an app's static schedules: its entries of ``beat_schedule``, and its agents' periodic methods.

    Another scheduler may fire the entries, but not the methods.
    """
    return f"s:{app_name}", f"a:{app_name}"


class StaticSchedules:
    """Declares static schedules on behalf of one scheduler, and removes those that nobody declares any more."""

    def __init__(self, app_name: str, store: Callable[[], Store], writer: ScheduleWriter, scheduler: str) -> None:
        self._app_name = app_name
        self._store = store
        self._writer = writer
        self._scheduler = scheduler
        self._ids: list[str] = []

    def declare(self, declared: Iterable[StaticSchedule], *, is_beat: bool) -> dict[str, BoundSchedule]:
        """Declare schedules; returns what is bound to this process' code.

        A beat's declaration replaces what Redis has. A worker in a beat's place adds what is missing only: its
        configuration may be another one.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        declared = list(declared)
        mode = "replace" if is_beat else "keep"
        if is_beat:
            self._writer.take_entries(self._app_name)
        for owner in owners_of(self._app_name):
            some = [
                one for one in declared if (owner[0] == "a") == isinstance(one.definition.recipient, AgentRecipient)
            ]
            self._writer.declare(
                [(one.definition, one.bound.next_after if one.bound is not None else None) for one in some],
                owner,
                mode=mode,
            )
        self._ids = [one.definition.id for one in declared]
        if is_beat:
            self.renew(is_new=True)
        return {one.definition.id: one.bound for one in declared if one.bound is not None}

    def count(self) -> int:
        """How many schedules in Redis have an owner: the code of an app, this one's or another's, or an incarnation.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store()
        try:
            found: Any = store.client.smembers(store.keys.schedule_owners)
            owners = {raw.decode("utf-8", "surrogateescape") for raw in found} | {*owners_of(self._app_name)}
            with store.client.pipeline(transaction=False) as pipe:
                for owner in owners:
                    pipe.scard(store.keys.schedules_of(owner))
                return sum(pipe.execute())
        except RedisError as error:
            raise store.failure(error) from error

    def renew(self, *, is_new: bool = False) -> None:
        """Give a sign that this scheduler lives, and declares its schedules.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store()
        key = store.keys.scheduler_declares(self._scheduler)
        try:
            if not is_new and store.client.pexpire(key, DECLARES_MS):
                return
            with store.client.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                # A member that is no schedule: a scheduler without entries declares that it has none.
                pipe.sadd(key, "", *self._ids)
                pipe.pexpire(key, DECLARES_MS)
                pipe.hset(store.keys.schedulers, self._scheduler, self._app_name)
                pipe.execute()
        except RedisError as error:
            raise store.failure(error) from error

    def retire(self) -> list[str]:
        """Remove static schedules of this app that no living scheduler declares; returns their ids.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        removed = [one for owner in owners_of(self._app_name) for one in self._writer.retire(owner, _RETIRED_AT_ONCE)]
        for schedule_id in removed:
            logger.info("schedule %s is removed: no living scheduler declares it", schedule_id)
        return removed


def with_names(entries: Any, app: Celery) -> dict[str, ScheduleEntry]:
    """The entries of a ``beat_schedule`` as Celery's objects.

    Raises:
        InvalidSchedule: Celery cannot make an object of some; names these, and all others that cannot be schedules.
    """
    if not isinstance(entries, Mapping):
        raise InvalidSchedule("", [ScheduleFault("beat_schedule", entries, "a dict of entries by their names")])
    made: dict[str, ScheduleEntry] = {}
    faults: list[ScheduleFault] = []
    for name, entry in sorted(entries.items(), key=lambda named: str(named[0])):
        where = f"beat_schedule[{name!r}]"
        found = entry_faults(where, entry)
        if not isinstance(name, str):
            found.append(ScheduleFault(where, name, "a text as the name"))
        if not found:
            try:
                is_made = isinstance(entry, ScheduleEntry)
                made[name] = entry if is_made else ScheduleEntry(**dict(entry, name=name, app=app))
            except (TypeError, AttributeError, ValueError) as error:
                found = [ScheduleFault(where, entry, f"an entry as Celery has them ({error})")]
        faults += found
    if faults:
        raise InvalidSchedule("", [*faults, *_split(app, made)[1]])
    return made


def checked(app: Celery, entries: Mapping[str, ScheduleEntry]) -> list[StaticSchedule]:
    """The schedules that entries declare.

    Raises:
        InvalidSchedule: some cannot be schedules; names all of them.
    """
    found, faults = _split(app, entries)
    if faults:
        raise InvalidSchedule("", faults)
    return found


def _split(app: Celery, entries: Mapping[str, ScheduleEntry]) -> tuple[list[StaticSchedule], list[ScheduleFault]]:
    """The schedules that entries declare, and what is wrong with those that declare none."""
    found: list[StaticSchedule] = []
    faults: list[ScheduleFault] = []
    for name, entry in sorted(entries.items()):
        try:
            found.append(schedule_of(app, name, entry))
        except InvalidSchedule as error:
            faults += [replace(fault, field=f"beat_schedule[{name!r}].{fault.field}") for fault in error.faults]
    return found, faults
