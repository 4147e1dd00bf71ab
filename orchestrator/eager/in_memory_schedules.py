"""Schedules in eager mode: in memory, by a clock that only :meth:`advance` moves, and fired inline."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celery import Celery

from orchestrator.agents.directory import Directory
from orchestrator.core.checks.numbers import is_number
from orchestrator.core.deliveries.outcome import Handled
from orchestrator.core.errors import (
    InfrastructureError,
    InvalidPolicy,
    InvalidSchedule,
    ScheduleExists,
    UnknownSchedule,
)
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import encode_definition
from orchestrator.core.schedules.rule import begin, decide, outcome, refused, update
from orchestrator.core.schedules.state import Decision, Fire, ScheduleState
from orchestrator.core.schedules.triggers import Foreign, SteppedTimes, Times
from orchestrator.core.schedules.values import AgentRecipient, Overlap
from orchestrator.core.settings import Settings
from orchestrator.schedules.declared.celery_schedules import NextAfter, next_after_of
from orchestrator.schedules.declared.entry_recipients import EntryRecipients
from orchestrator.schedules.declared.static_schedules import checked, schedules_of_agent, with_names
from orchestrator.schedules.firing.fire_kinds import iso
from orchestrator.schedules.firing.fire_writer import FireWriter
from orchestrator.schedules.firing.one_pass import BoundSchedule
from orchestrator.schedules.history import HistoryEntry
from orchestrator.schedules.redis.stored import StoredSchedule
from orchestrator.schedules.redis.stored_state import counts_of, fields_of
from orchestrator.sending.backend import Backend

_TOTALS = {"d": "due", "f": "fired", "c": "coalesced", "m": "missed", "k": "skipped"}

#: The longest time that one call lets pass.
_LONGEST_S = 3_153_600_000


@dataclass(slots=True)
class _Known:
    definition: ScheduleDefinition
    state: ScheduleState
    owner: str = ""
    bound: BoundSchedule | None = None
    counts: Counter[str] = field(default_factory=Counter)


class InMemorySchedules:
    """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""

    def __init__(self, app: Celery, directory: Directory, settings: Settings, backend: Backend) -> None:
        self._app = app
        self._directory = directory
        self._settings = settings
        self._backend = backend
        self._writer = FireWriter(app, directory, settings.redact)
        self._now_ms = int(time.time() * 1000)
        self._known: dict[str, _Known] = {}
        self._history: list[HistoryEntry] = []
        self._ledger: Counter[str] = Counter()
        self._has_declared = False

    # -- what time brings

    def advance(self, seconds: float, only: Iterable[str] | None = None) -> int:
        """Let time pass, and fire what becomes due (with ``only``, of these), in its order; returns how often."""
        self._declare_static()
        if not is_number(seconds, 0, _LONGEST_S):
            raise InvalidPolicy("seconds", seconds, "a number from 0 to 3153600000 (a hundred years)")
        if isinstance(only, str):
            raise InvalidPolicy("only", only, "a list of ids of schedules")
        ids = None if only is None else {self.existing(schedule_id).id for schedule_id in only}
        until_ms, fired = self._now_ms + round(seconds * 1000), 0
        while True:
            due = [
                (known.state.due_ms, id_)
                for id_, known in self._known.items()
                if known.state.due_ms is not None and (ids is None or id_ in ids)
            ]
            first = min(due, default=None)
            if first is None or first[0] > until_ms:
                break
            self._now_ms = max(self._now_ms, first[0])
            fired += self._decide(first[1])
        self._now_ms = until_ms
        return fired

    def _decide(self, schedule_id: str) -> int:
        known = self._known[schedule_id]
        decision = decide(known.definition, known.state, self._now_ms, self._times_of(known, known.state.next_ms))
        if decision.fire is not None:
            try:
                self._send(known, decision.fire)
            except InfrastructureError as error:
                reason = "breaker open" if type(error).__name__ == "CircuitOpen" else "mailbox full"
                known.state = refused(known.state, reason, self._now_ms)
                return 0
        self._apply(schedule_id, known, decision)
        if decision.fire is not None and schedule_id in self._known:
            self._end(known, decision.fire.delivery_id)
        return int(decision.fire is not None)

    def _send(self, known: _Known, fire: Fire) -> None:
        message = self._writer.outgoing(known.definition, fire.delivery_id, iso(fire.nominal_ms), fire.coalesced)
        if known.bound is not None and known.bound.lazy is not None:
            args, kwargs, _ = known.bound.lazy()
            message = replace(message, args=args, kwargs=kwargs)
        # A fire's outcome is its schedule's business, not that of who lets time pass.
        self._backend.send(message)

    def _end(self, known: _Known, delivery: str) -> None:
        definition = known.definition
        if definition.overlap is Overlap.ALLOW and not definition.pause_on_failure:
            return
        ended = self._backend.outcome(delivery, 0.0)
        handled = isinstance(ended, Handled)
        self._apply(
            definition.id, known, outcome(definition, known.state, delivery, is_handled=handled, now_ms=self._now_ms)
        )

    def _apply(self, schedule_id: str, known: _Known, decision: Decision) -> None:
        known.state = decision.state
        for letter, by, reason in counts_of(decision):
            known.counts[letter] += by
            self._ledger[_TOTALS[letter]] += by
            if reason and letter in "mk":
                self._ledger[f"{_TOTALS[letter]}: {reason}"] += by
        for r in decision.records:
            self._history.append(
                HistoryEntry(
                    schedule_id,
                    r.fate,
                    r.first_ms,
                    r.last_ms,
                    r.count or 1,
                    r.reason,
                    r.into_ms,
                    r.delivery_id,
                    self._now_ms,
                )
            )
        del self._history[: -self._settings.schedule_history]

    def _times_of(self, known: _Known, from_ms: int | None) -> Times | None:
        next_after = known.bound.next_after if known.bound is not None else None
        return self._stepped(known.definition, self._now_ms if from_ms is None else from_ms, next_after)

    def _stepped(self, definition: ScheduleDefinition, from_ms: int, next_after: NextAfter | None) -> Times | None:
        if not isinstance(definition.trigger, Foreign):
            return None
        found = next_after if next_after is not None else next_after_of(self._app, definition.trigger)
        return None if found is None else SteppedTimes(found, from_ms)

    def _declare_static(self) -> None:
        """Declare the schedules of agents and of ``beat_schedule``, as a beat does at its start."""
        if self._has_declared:
            return
        static = [one for spec in self._directory.declared.values() for one in schedules_of_agent(spec)]
        static += checked(self._app, with_names(self._app.conf.beat_schedule or {}, self._app))
        recipients = EntryRecipients(self._app, self._directory.messages(), self._settings.foreign_tasks)
        if faults := [fault for one in static if (fault := recipients.fault(one.definition))]:
            raise InvalidSchedule("", faults)
        self._has_declared = True
        for one in static:
            if one.definition.id not in self._known:
                next_after = one.bound.next_after if one.bound is not None else None
                owner = "a" if isinstance(one.definition.recipient, AgentRecipient) else "s"
                self.add(one.definition, f"{owner}:{self._app.main or ''}", "keep", next_after)
                self._known[one.definition.id].bound = one.bound

    # -- see SchedulesBackend

    def now_ms(self) -> int:
        """The time that :meth:`advance` has come to."""
        return self._now_ms

    def ids(self) -> Iterator[str]:
        """See :class:`SchedulesBackend`."""
        self._declare_static()
        return iter(list(self._known))

    def count(self) -> int:
        """See :class:`SchedulesBackend`."""
        return len(list(self.ids()))

    def read(self, ids: Sequence[str]) -> list[StoredSchedule | None]:
        """See :class:`SchedulesBackend`."""
        self._declare_static()
        return [self._stored(schedule_id) for schedule_id in ids]

    def leftovers(self) -> list[StoredSchedule]:
        """See :class:`SchedulesBackend`."""
        return []

    def _stored(self, schedule_id: str) -> StoredSchedule | None:
        known = self._known.get(schedule_id)
        if known is None:
            return None
        fields: dict[str, Any] = {**fields_of(known.state), **known.counts, "r": known.state.rev, "o": known.owner}
        if known.state.next_ms is None:
            fields["e"] = "its last time has passed"
        texts = {name: str(value) for name, value in fields.items() if value != ""}
        return StoredSchedule(schedule_id, encode_definition(known.definition), texts, known.state.due_ms)

    def existing(self, schedule_id: str) -> StoredSchedule:
        """See :class:`SchedulesBackend`."""
        (stored,) = self.read([schedule_id])
        if stored is None:
            raise UnknownSchedule(schedule_id, self._known)
        return stored

    def of_owner(self, owner: str) -> list[str]:
        """See :class:`SchedulesBackend`."""
        return sorted(schedule_id for schedule_id, known in self._known.items() if known.owner == owner)

    def times(self, definition: ScheduleDefinition, from_ms: int) -> Times | None:
        """See :class:`SchedulesBackend`."""
        known = self._known.get(definition.id)
        bound = known.bound if known is not None else None
        return self._stepped(definition, from_ms, bound.next_after if bound is not None else None)

    def add(
        self,
        definition: ScheduleDefinition,
        owner: str,
        if_exists: str,
        next_after: NextAfter | None,
        last_ms: int | None = None,
    ) -> None:
        """See :class:`SchedulesBackend`."""
        known = self._known.get(definition.id)
        if known is None:
            if len(self._known) >= self._settings.schedules_most:
                fault = ScheduleFault("schedules", f"{len(self._known)} of them", "at most schedules_most")
                raise InvalidSchedule(definition.id, [fault])
            times = self._stepped(definition, self._now_ms if last_ms is None else last_ms, next_after)
            state = begin(definition, self._now_ms, last_ms=last_ms, times=times)
            self._known[definition.id] = _Known(definition, state, owner, BoundSchedule(next_after))
            return
        if if_exists == "error":
            raise ScheduleExists(definition.id)
        if if_exists == "keep" or known.definition == definition:
            return
        from_ms = known.state.next_ms or self._now_ms
        before, times = self._times_of(known, from_ms), self._stepped(definition, from_ms, next_after)
        decision = update(known.definition, definition, known.state, self._now_ms, times_before=before, times=times)
        known.definition, known.bound = definition, BoundSchedule(next_after)
        self._apply(definition.id, known, decision)

    def change(self, schedule_id: str, decide_: Callable[[StoredSchedule, int], Decision | None]) -> bool:
        """See :class:`SchedulesBackend`."""
        decision = decide_(self.existing(schedule_id), self._now_ms)
        if decision is None:
            return False
        self._apply(schedule_id, self._known[schedule_id], decision)
        return True

    def is_declared_by(self, app_name: str) -> bool:
        """See :class:`SchedulesBackend`."""
        return app_name == (self._app.main or "")

    def remove(self, schedule_id: str) -> bool:
        """See :class:`SchedulesBackend`."""
        self._declare_static()
        return self._known.pop(schedule_id, None) is not None

    def send(self, definition: ScheduleDefinition, decisions: Sequence[Decision]) -> None:
        """See :class:`SchedulesBackend`."""
        known = self._known[definition.id]
        for number, decision in enumerate(decisions):
            if decision.fire is None:
                continue
            try:
                self._send(known, decision.fire)
            except InfrastructureError as error:
                if hasattr(error, "accepted"):
                    error.accepted = number
                raise
            self._apply(definition.id, known, replace(decision, state=known.state))

    def history(self, schedule_id: str | None, count: int, before_ms: int | None = None) -> list[HistoryEntry]:
        """See :class:`SchedulesBackend`."""
        found = (
            entry
            for entry in reversed(self._history)
            if schedule_id in (None, entry.schedule) and (before_ms is None or entry.at_ms < before_ms)
        )
        return [entry for entry, _ in zip(found, range(count), strict=False)]

    def ledger(self) -> Mapping[str, int]:
        """See :class:`SchedulesBackend`."""
        return dict(self._ledger)

    def check(self, definition: ScheduleDefinition) -> None:
        """See :class:`SchedulesBackend`."""
        self._writer.outgoing(definition, "", "")
