"""`Schedule`: one schedule, as users act on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Unpack

from orchestrator.core.checks.choices import check_bool
from orchestrator.core.errors import CallerError, InvalidSchedule
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules import plan as schedule_plan
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.options import ScheduleOptions, to_datetime, to_epoch_ms
from orchestrator.core.schedules.rule import pause, resume
from orchestrator.core.schedules.state import Decision, ScheduleState
from orchestrator.core.schedules.triggers import Foreign, SteppedTimes, Times
from orchestrator.schedules.backend import SchedulesBackend
from orchestrator.schedules.explain import explain
from orchestrator.schedules.history import HistoryEntry
from orchestrator.schedules.info import ScheduleInfo, info_of
from orchestrator.schedules.redis.stored import StoredSchedule

#: Messages that one call of a backfill accepts.
_BACKFILLED_AT_ONCE = 100

#: Makes a definition of an existing one with other options.
Redefine = Callable[[ScheduleDefinition, Mapping[str, Any]], ScheduleDefinition]


class Schedule:
    """A handle of one schedule. Each call asks Redis anew, and raises ``BrokerUnavailable`` while that is away."""

    __slots__ = ("_backend", "_redefine", "id")

    def __init__(self, schedule_id: str, backend: Callable[[], SchedulesBackend], redefine: Redefine) -> None:
        self.id = schedule_id
        self._backend = backend
        self._redefine = redefine

    def __repr__(self) -> str:
        return f"<Schedule {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def info(self) -> ScheduleInfo:
        """Its definition, its state and its counts.

        Raises:
            UnknownSchedule: it does not exist.
        """
        return info_of(self._backend().existing(self.id))

    def update(self, **options: Unpack[ScheduleOptions]) -> None:
        """Change options of the schedule; ``None`` sets one back to its default.

        The next time is kept unless the times themselves change; then it is computed from the last nominal time and
        now. A time that is overdue is neither lost nor doubled.

        Raises:
            UnknownSchedule: it does not exist.
            InvalidSchedule: an option has a value that is not allowed.
            CallerError: it is declared in code.
        """
        backend = self._backend()
        stored = backend.existing(self.id)
        refuse_declared(stored, backend, "updated")
        definition = self._redefine(stored.definition(), options)
        owner = stored.fields.get("o", "")
        backend.add(definition, owner, "replace", None)

    def pause(self, reason: str = "") -> bool:
        """Fire no more until :meth:`resume`; whether it was not paused. A fire that waits is skipped.

        Raises:
            UnknownSchedule: it does not exist.
        """

        def decide(stored: StoredSchedule, now_ms: int) -> Decision | None:
            state = _state_of(stored)
            return None if state.paused else pause(state, reason, now_ms)

        return self._backend().change(self.id, decide)

    def resume(self, *, catch_up: bool = False) -> bool:
        """End a pause; whether it was paused.

        The times that passed meanwhile are skipped, or with ``catch_up`` treated as its misfire policy says.

        Raises:
            UnknownSchedule: it does not exist.
            InvalidSchedule: its definition cannot be read.
            InvalidPolicy: ``catch_up`` is neither true nor false.
        """
        check_bool("catch_up", catch_up)
        backend = self._backend()

        def decide(stored: StoredSchedule, now_ms: int) -> Decision | None:
            state = _state_of(stored)
            if not state.paused:
                return None
            definition = stored.definition()
            times = self._times(backend, definition, state.next_ms or now_ms)
            return resume(definition, state, now_ms, catch_up=catch_up, times=times)

        return backend.change(self.id, decide)

    def trigger(self) -> str:
        """Fire now, whatever is planned, paused or running; the plan goes on unchanged. Returns the delivery's id.

        Raises:
            UnknownSchedule: it does not exist.
            InvalidSchedule: its definition cannot be read.
            MailboxFull, CircuitOpen: flow control refused it.
        """
        backend = self._backend()
        stored = backend.existing(self.id)
        definition = self._sendable(stored)
        decision = schedule_plan.trigger(definition, _state_of(stored), backend.now_ms(), secrets.token_hex(8))
        backend.send(definition, [decision])
        assert decision.fire is not None  # noqa: S101
        return decision.fire.delivery_id

    def backfill(self, begin: datetime, end: datetime) -> int:
        """Fire for each nominal time from ``begin`` to ``end``, both included; returns how many.

        Each gets an id of its own, so that a time that has been fired is fired again.

        Raises:
            UnknownSchedule: it does not exist.
            InvalidPolicy: there are more than 10,000 of them; nothing was sent.
            MailboxFull, CircuitOpen: flow control refused some; ``accepted`` says after how many.
        """
        backend = self._backend()
        stored = backend.existing(self.id)
        definition = self._sendable(stored)
        span = to_epoch_ms(begin), to_epoch_ms(end)
        times = self._times(backend, definition, span[0])
        decisions = schedule_plan.backfill(definition, _state_of(stored), span, secrets.token_hex(8), times=times)
        some: list[Decision] = []
        count = 0
        for decision in decisions:
            some.append(decision)
            count += 1
            if len(some) == _BACKFILLED_AT_ONCE:
                backend.send(definition, some)
                some = []
        if some:
            backend.send(definition, some)
        return count

    def preview(self, count: int = 5) -> list[datetime]:
        """The next nominal times, as if the schedule were not paused.

        Raises:
            UnknownSchedule: it does not exist.
            InvalidPolicy: more than 1,000 are asked for.
        """
        backend = self._backend()
        stored = backend.existing(self.id)
        definition = stored.definition()
        tz = getattr(definition.trigger, "tz", "UTC")
        times = self._times(backend, definition, stored.state.next_ms or backend.now_ms())
        found = schedule_plan.preview(definition, _state_of(stored), count, times=times)
        return [to_datetime(nominal_ms, tz) for nominal_ms, _ in found]

    def history(self, count: int = 20) -> list[HistoryEntry]:
        """The ends of its last nominal times, the newest first; as many as ``schedule_history`` keeps."""
        return self._backend().history(self.id, count)

    def explain(self, at: datetime | None = None, *, history: int = 1000) -> list[str]:
        """An explanation, in lines, of its time at a moment, past or future; without ``at``, of its next time.

        A moment without a zone is by the clock of the schedule's zone. ``history`` is how many entries are looked at.

        Raises:
            UnknownSchedule: it does not exist.
        """
        backend = self._backend()
        info = self.info()
        definition, now_ms = info.definition, backend.now_ms()
        next_ms = info.state.next_ms
        if at is None:
            at = to_datetime(now_ms if next_ms is None else next_ms)
        times = None if definition is None else backend.times(definition, next_ms or now_ms)
        if definition is not None and isinstance(definition.trigger, Foreign) and times is None:
            times = SteppedTimes(lambda _: None)
        return explain(info, at, self.history(history), now_ms, times)

    def remove(self) -> bool:
        """Remove it; whether it existed.

        Raises:
            CallerError: it is declared in code. One whose app is another one, of which no beat runs, may be removed.
        """
        backend = self._backend()
        (stored,) = backend.read([self.id])
        if stored is not None:
            refuse_declared(stored, backend, "removed")
        return backend.remove(self.id)

    def _times(self, backend: SchedulesBackend, definition: ScheduleDefinition, from_ms: int) -> Times | None:
        times = backend.times(definition, from_ms)
        if isinstance(definition.trigger, Foreign) and times is None:
            raise CallerError(
                f"the times of schedule {self.id!r} are computed by {definition.trigger.kind}, which only a scheduler "
                "that declares it has; allowed: a schedule with cron, every_s or at"
            )
        return times

    def _sendable(self, stored: StoredSchedule) -> ScheduleDefinition:
        definition = stored.definition()
        if getattr(definition.recipient, "is_lazy", False):
            raise CallerError(f"the arguments of schedule {self.id!r} are made by the beat that declares it")
        return definition


def refuse_declared(stored: StoredSchedule, backend: SchedulesBackend, done: str) -> None:
    """Refuse to change what code declares: nobody would learn of it, and the next declaration undoes it.

    Raises:
        CallerError: the schedule is declared; names who declares it, and what is allowed.
    """
    kind, _, app_name = stored.fields.get("o", "").partition(":")
    if not stored.text:
        # Its definition is gone: nothing of a declaration is left.
        return
    if kind not in ("s", "a") or not backend.is_declared_by(app_name):
        return
    app = f"app {app_name!r}" if app_name else "an app"
    agent, _, method = stored.id.partition(".")
    if kind == "s":
        declarer, where = f"beat_schedule of {app}", "the entry"
    else:
        declarer, where = f"method {method} of agent {agent!r} in {app}", "its @every or @cron"
    raise CallerError(
        f"schedule {stored.id!r} cannot be {done}: it is declared by {declarer}; allowed: pause, resume, trigger and "
        f"backfill, or to change {where} and restart what runs it"
    )


def _state_of(stored: StoredSchedule) -> ScheduleState:
    """The state of a schedule.

    Raises:
        InvalidSchedule: something else has written it.
    """
    try:
        return stored.state
    except ValueError as error:
        raise InvalidSchedule(
            stored.id, [ScheduleFault("state", str(error), "what this library has written")]
        ) from error
