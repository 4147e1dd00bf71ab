"""`orchestrator.schedules`: adds schedules and finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, Unpack

from celery import Celery, Task
from celery.canvas import Signature

from orchestrator.core.checks.numbers import is_whole_number
from orchestrator.core.checks.text import is_text
from orchestrator.core.errors import CallerError, InvalidPolicy, InvalidSchedule
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.checks import id_faults
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.options import ScheduleOptions, define, to_datetime
from orchestrator.core.schedules.triggers import Cron, Interval, Once, Trigger
from orchestrator.core.schedules.values import AgentRecipient, Recipient, Source, TaskRecipient
from orchestrator.schedules.backend import SchedulesBackend
from orchestrator.schedules.declared.celery_schedules import NextAfter, trigger_of
from orchestrator.schedules.history import HistoryEntry
from orchestrator.schedules.info import ScheduleInfo, info_of
from orchestrator.schedules.redis.owned import OwnedSchedules
from orchestrator.schedules.schedule import Schedule, refuse_declared

IfExists = Literal["error", "replace", "keep"]

_IF_EXISTS: Final = ("error", "replace", "keep")

#: Schedules that are read at a time.
_PAGE: Final = 500

_DAY_MS: Final = 86_400_000

#: Options that say when a schedule is due.
_TIMES: Final = ("cron", "every_s", "at", "tz", "dst_gap", "dst_fold")


class Schedules(Mapping[str, Schedule]):
    """The schedules of an app, by their ids: ``orchestrator.schedules["nightly"].pause()``.

    They lie in Redis, and are fired by any beat that runs with ``-S orchestrator`` (the default), or by a worker if no
    beat runs. In eager mode they lie in memory, and :meth:`advance` fires them.
    """

    def __init__(self, app: Celery, backend: Callable[[], SchedulesBackend]) -> None:
        self._app = app
        self._backend = backend

    def add(
        self,
        schedule_id: str,
        recipient: str | type[Any] | Signature | Task,
        message: Message | None = None,
        *,
        schedule: Any = None,
        if_exists: IfExists = "error",
        last_run_ms: int | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Add a schedule that sends ``message`` to an agent, or a Celery signature, at the times that options say.

        Exactly one of ``cron``, ``every_s``, ``at`` and ``schedule`` (an object of Celery's, as ``crontab(...)``) says
        when. If there is a schedule with that id, that is an error, or the new one replaces it and goes on with its
        times, or it is kept, as ``if_exists`` says. ``last_run_ms`` is when it was last fired elsewhere.

        Options: see :class:`ScheduleOptions`.

        Raises:
            InvalidSchedule: options have values that are not allowed; names all of them.
            ScheduleExists: there is a schedule with that id.
            CallerError: it is to be replaced, and is declared in code.
            UnknownAgent, UnknownMessage, InvalidMessage, InvalidPolicy: the recipient cannot get this, as with a send.
            MessageTooLarge: so would each of its messages be.
            BrokerUnavailable: Redis is away.
        """
        if if_exists not in _IF_EXISTS:
            raise InvalidSchedule(schedule_id, [ScheduleFault("if_exists", if_exists, ", ".join(_IF_EXISTS))])
        definition, next_after = self.define(schedule_id, recipient, message, schedule=schedule, options=options)
        if last_run_ms is not None and not is_whole_number(last_run_ms, 0, latest := self.now_ms() + _DAY_MS):
            allowed = f"whole ms since 1970, at most a day from now ({latest})"
            raise InvalidSchedule(schedule_id, [ScheduleFault("last_run_ms", last_run_ms, allowed)])
        backend = self._backend()
        if if_exists == "replace" and (stored := backend.read([schedule_id])[0]) is not None:
            refuse_declared(stored, backend, "replaced")
        backend.add(definition, "", if_exists, next_after, last_run_ms)
        return self[schedule_id]

    def define(
        self,
        schedule_id: str,
        recipient: Any,
        message: Message | None,
        *,
        schedule: Any = None,
        options: Mapping[str, Any],
        owner: str = "",
    ) -> tuple[ScheduleDefinition, NextAfter | None]:
        """The definition that :meth:`add` would add, checked, and its times if Celery's classes compute them."""
        backend = self._backend()
        trigger: Trigger | None = None
        next_after: NextAfter | None = None
        if schedule is not None:
            trigger, next_after = trigger_of(self._app, schedule, schedule_id)
        definition = define(
            schedule_id,
            _recipient(recipient, message),
            options,
            now_ms=backend.now_ms(),
            tz=str(self._app.conf.timezone or "UTC"),
            trigger=trigger,
            source=Source.OWNED if owner else Source.DYNAMIC,
            owner=owner,
        )
        if definition.is_code_bound:
            fault = ScheduleFault(
                "schedule", schedule, "crontab, solar, a number of seconds, or an entry of beat_schedule"
            )
            raise InvalidSchedule(schedule_id, [fault])
        backend.check(definition)
        return definition, next_after

    def put(self, definition: ScheduleDefinition, next_after: NextAfter | None, last_run_ms: int | None) -> None:
        """Add a definition that was made elsewhere, unless there is a schedule with its id.

        Raises:
            UnknownAgent, UnknownMessage, InvalidPolicy: the recipient cannot get this, as with a send.
            BrokerUnavailable: Redis is away.
        """
        backend = self._backend()
        if definition.source is not Source.STATIC:
            backend.check(definition)
        backend.add(definition, "", "keep", next_after, last_run_ms)

    def __getitem__(self, schedule_id: str) -> Schedule:
        """The schedule with that id; whether it exists is looked up when it is used.

        Raises:
            InvalidSchedule: no schedule can have that id.
        """
        if not is_text(schedule_id):
            raise InvalidSchedule(schedule_id, id_faults(schedule_id))
        return Schedule(schedule_id, self._backend, self._redefined)

    def __contains__(self, schedule_id: object) -> bool:
        """Whether there is a schedule with that id."""
        if not isinstance(schedule_id, str):
            return False
        (stored,) = self._backend().read([schedule_id])
        return stored is not None and bool(stored.text)

    def __iter__(self) -> Iterator[str]:
        """The ids of all schedules, in no particular order."""
        return iter(dict.fromkeys(self._backend().ids()))

    def __len__(self) -> int:
        """The number of schedules."""
        return self._backend().count()

    def infos(self) -> Iterator[ScheduleInfo]:
        """All schedules with their states, in no particular order; those that cannot be read as well."""
        backend, page = self._backend(), []
        for schedule_id in self:
            page.append(schedule_id)
            if len(page) == _PAGE:
                yield from _infos(backend, page)
                page = []
        yield from _infos(backend, page)
        yield from map(info_of, backend.leftovers())

    def get_info(self, schedule_id: str) -> ScheduleInfo:
        """One schedule with its state.

        Raises:
            UnknownSchedule: there is none with that id.
            BrokerUnavailable: Redis is away.
        """
        return self[schedule_id].info()

    def history(self, count: int = 20, *, before_ms: int | None = None) -> list[HistoryEntry]:
        """The ends of the last nominal times of all schedules, the newest first."""
        return self._backend().history(None, count, before_ms)

    def now_ms(self) -> int:
        """The time by which schedules are due: Redis' clock, in ms since 1970."""
        return self._backend().now_ms()

    def ledger(self) -> Mapping[str, int]:
        """The totals of all schedules, those that are gone included: ``due = fired + coalesced + missed + skipped``.

        What was missed and skipped is counted by reason as well (``"missed: mailbox full"``).
        """
        return self._backend().ledger()

    def of_incarnation(self, incarnation: str, agent: str) -> OwnedSchedules:
        """The schedules that an incarnation owns; handlers use :attr:`Context.schedules`."""
        if not incarnation and hasattr(self._backend(), "advance"):
            # Eager mode has one incarnation, which is this process.
            incarnation = "eager"
        return OwnedSchedules(self, self._backend, incarnation, agent)

    def advance(self, seconds: float, *, only: Iterable[str] | None = None) -> int:
        """In eager mode: let time pass, and fire what becomes due, inline; returns how many fires there were.

        With ``only``, the schedules with these ids fire; what was due of others is decided by the next call without it,
        by their misfire policies, as after an outage.

        Raises:
            CallerError: this is not eager mode.
            InvalidPolicy: ``seconds`` is no number from 0 to a hundred years, or ``only`` is no list of ids.
            UnknownSchedule: there is no schedule with an id that ``only`` has.
        """
        advance: Callable[[float, Iterable[str] | None], int] | None = getattr(self._backend(), "advance", None)
        if advance is None:
            raise CallerError("advance() is for eager mode; allowed: an app with task_always_eager")
        return advance(seconds, only)

    def _redefined(self, definition: ScheduleDefinition, options: Mapping[str, Any]) -> ScheduleDefinition:
        """A definition with other options."""
        given = {**_options_of(definition), **options}
        trigger: Trigger | None = None
        if any(options.get(name) is not None for name in ("cron", "every_s", "at")):
            given = {name: value for name, value in given.items() if name not in _TIMES or name in options}
        elif not any(given.get(name) is not None for name in ("cron", "every_s", "at")):
            trigger = definition.trigger
        return define(
            definition.id,
            definition.recipient,
            given,
            now_ms=0,
            tz=str(self._app.conf.timezone or "UTC"),
            trigger=trigger,
            source=definition.source,
            owner=definition.owner,
        )


def _infos(backend: SchedulesBackend, ids: list[str]) -> Iterator[ScheduleInfo]:
    yield from (info_of(stored) for stored in backend.read(ids) if stored is not None)


def _recipient(recipient: Any, message: Message | None) -> Recipient:
    if isinstance(recipient, Task):
        recipient = recipient.s()
    if isinstance(recipient, Signature):
        if message is not None:
            raise InvalidPolicy("message", message, "nothing, when a Celery signature is sent")
        options = {name: value for name, value in recipient.options.items() if value is not None}
        return TaskRecipient(recipient.task, tuple(recipient.args), dict(recipient.kwargs), options)
    # A workflow has a name too, but is no class.
    name = getattr(recipient, "name", None) if isinstance(recipient, type) else recipient
    if not isinstance(name, str):
        allowed = "an agent's name, an Agent class, or a Celery signature; a workflow is started by an agent's handler"
        raise InvalidPolicy("recipient", recipient, allowed)
    if not isinstance(message, Message):
        raise InvalidPolicy("message", message, "an instance of a Message class")
    return AgentRecipient(name, message_name(type(message)), encode(message))


def _options_of(definition: ScheduleDefinition) -> dict[str, Any]:
    """The options that make a definition."""
    options: dict[str, Any] = {
        "start": None if definition.start_ms is None else to_datetime(definition.start_ms),
        "end": None if definition.end_ms is None else to_datetime(definition.end_ms),
        "max_runs": definition.max_runs,
        "jitter_s": definition.jitter_s,
        "misfire": definition.misfire,
        "misfire_grace_s": definition.misfire_grace_s,
        "overlap": definition.overlap,
        "pause_on_failure": definition.pause_on_failure,
        "metadata": dict(definition.metadata) or None,
    }
    match definition.trigger:
        case Cron(expression, tz, gap, fold):
            options |= {"cron": expression, "tz": tz, "dst_gap": gap, "dst_fold": fold}
        case Interval(every_ms):
            options["every_s"] = every_ms / 1000
        case Once(at_ms):
            options["at"] = to_datetime(at_ms)
    policy = definition.policy
    for name in ("retry", "on_error", "timeout_s", "deadline_s", "expires_s", "priority", "when_down"):
        options[name] = getattr(policy, name)
    options["dead_letter_expired"] = policy.dead_letter_expired
    return options
