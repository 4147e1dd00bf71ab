"""Writes schedules to Redis: adds, changes and removes them, each in one script that compares what it has read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from orchestrator.core.errors import CallerError, InvalidSchedule, OwnerGone, ScheduleExists, UnknownSchedule
from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import encode_definition
from orchestrator.core.schedules.rule import begin, update
from orchestrator.core.schedules.state import Decision, ScheduleState
from orchestrator.core.schedules.triggers import Foreign, SteppedTimes, Times
from orchestrator.core.stored_values import stored_text
from orchestrator.schedules.declared.celery_schedules import NextAfter
from orchestrator.schedules.redis import scripts
from orchestrator.schedules.redis.reading import ScheduleReader
from orchestrator.schedules.redis.scripts import MOST_AT_ONCE, Declaration
from orchestrator.schedules.redis.stored import StoredSchedule
from orchestrator.schedules.redis.stored_state import change_of
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.store import Store

#: A change that another one has overtaken is computed again, at most this often.
_TRIES: Final = 20

#: Finds what computes the times of a foreign trigger.
NextAfterOf = Callable[[Foreign], NextAfter | None]


class ScheduleWriter(ScheduleReader):
    """Writes the schedules of one Redis."""

    def __init__(self, store: Callable[[], Store], most: int, most_history: int, next_after_of: NextAfterOf) -> None:
        super().__init__(store)
        self._most = most
        self._most_history = most_history
        self._next_after_of = next_after_of
        self._callers = Callers()

    def times(self, definition: ScheduleDefinition, from_ms: int, next_after: NextAfter | None = None) -> Times | None:
        """The times of a definition whose trigger is foreign; ``None`` for any other, or if only code has them."""
        if not isinstance(definition.trigger, Foreign):
            return None
        found = next_after if next_after is not None else self._next_after_of(definition.trigger)
        return None if found is None else SteppedTimes(found, from_ms)

    # -- declaring

    def declare(
        self,
        definitions: Iterable[tuple[ScheduleDefinition, NextAfter | None]],
        owner: str,
        *,
        mode: str = "replace",
        last_ms: Callable[[str], int | None] = lambda _: None,
    ) -> dict[str, str]:
        """Add schedules or change them; returns what became of each: 'added', 'changed', 'kept' or 'exists'.

        ``last_ms`` says when a schedule was last fired elsewhere.

        Raises:
            InvalidSchedule: there would be too many schedules.
            OwnerGone: the incarnation that owns them was declared dead.
            BrokerUnavailable: Redis is away.
        """
        left = {definition.id: (definition, next_after) for definition, next_after in definitions}
        became: dict[str, str] = {}
        for _ in range(_TRIES):
            if not left:
                return became
            some = list(left.values())[:MOST_AT_ONCE]
            for schedule_id, status in self._declare(some, owner, mode, last_ms):
                if status != "stale":
                    became[schedule_id] = status
                    del left[schedule_id]
        raise CallerError(f"schedules {', '.join(sorted(left)[:3])} are being changed all the time; try again")

    def _declare(
        self,
        some: Sequence[tuple[ScheduleDefinition, NextAfter | None]],
        owner: str,
        mode: str,
        last_ms: Callable[[str], int | None],
    ) -> list[tuple[str, str]]:
        now_ms = self.now_ms()
        stored = self.read([definition.id for definition, _ in some])
        declarations = []
        for (definition, next_after), before in zip(some, stored, strict=True):
            last = last_ms(definition.id)
            declarations.append(self._declaration(definition, next_after, before, owner, mode, now_ms, last))
        store = self.store
        own = {"most": self._most, "most_history": self._most_history}
        reply = self._callers.run(
            store.keys,
            lambda attempt: store.run(*scripts.declare_schedules(store.keys, declarations, attempt=attempt, **own)),
        )
        statuses = []
        for one, (_, raw) in zip(declarations, reply, strict=True):
            status = raw.decode()
            if status == "dead":
                raise OwnerGone(owner.partition(":")[2])
            if status == "full":
                fault = ScheduleFault("schedules", f"{self._most} of them", "at most schedules_most")
                raise InvalidSchedule(one.id, [fault])
            statuses.append((one.id, status))
        return statuses

    def _declaration(
        self,
        definition: ScheduleDefinition,
        next_after: NextAfter | None,
        before: StoredSchedule | None,
        owner: str,
        mode: str,
        now_ms: int,
        last_ms: int | None,
    ) -> Declaration:
        text = encode_definition(definition)
        times = self.times(definition, now_ms if last_ms is None else last_ms, next_after)
        was = ScheduleState(None, None)
        if before is None:
            decision = Decision(begin(definition, now_ms, last_ms=last_ms, times=times))
        elif before.text == text and not before.broken and _is_readable(before):
            # Nothing changes, unless it has another owner.
            was = before.state
            decision = Decision(was)
        else:
            decision, was = self._updated(before, definition, next_after, now_ms)
        return Declaration(
            definition.id,
            owner,
            text,
            decision.state.due_ms,
            definition.is_code_bound,
            mode,
            None if before is None or not _is_readable(before) else before.rev,
            change_of(decision, was),
        )

    def _updated(
        self, before: StoredSchedule, definition: ScheduleDefinition, next_after: NextAfter | None, now_ms: int
    ) -> tuple[Decision, ScheduleState]:
        try:
            old, was = before.definition(), before.state
        except (InvalidSchedule, ValueError):
            # Nothing can be kept of what cannot be read.
            times = self.times(definition, now_ms, next_after)
            return Decision(begin(definition, now_ms, times=times)), ScheduleState(None, None)
        from_ms = was.next_ms or now_ms
        times = self.times(definition, from_ms, next_after)
        times_before = self.times(old, from_ms, next_after if old.trigger == definition.trigger else None)
        if isinstance(old.trigger, Foreign) and times_before is None:
            # Its class is gone, so that nobody can say what was due.
            return Decision(begin(definition, now_ms, times=self.times(definition, now_ms, next_after))), was
        return update(old, definition, was, now_ms, times_before=times_before, times=times), was

    def add(
        self,
        definition: ScheduleDefinition,
        owner: str,
        if_exists: str,
        next_after: NextAfter | None,
        last_ms: int | None = None,
    ) -> None:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        mode = {"error": "add"}.get(if_exists, if_exists)
        became = self.declare([(definition, next_after)], owner, mode=mode, last_ms=lambda _: last_ms)
        if became[definition.id] == "exists":
            raise ScheduleExists(definition.id)

    # -- changing

    def change(self, schedule_id: str, decide: Callable[[StoredSchedule, int], Decision | None]) -> bool:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        for _ in range(_TRIES):
            stored = self.existing(schedule_id)
            if not stored.text:
                stored.definition()
            decision = decide(stored, self.now_ms())
            if decision is None:
                return False
            change = change_of(decision, stored.state)
            status = self._run_change(
                schedule_id, "change", rev=stored.rev, due_ms=decision.state.due_ms, change=change
            )
            if status == "done":
                return True
            if status == "missing":
                break
        else:
            raise CallerError(f"schedule {schedule_id!r} is being changed all the time; try again")
        raise UnknownSchedule(schedule_id)

    def remove(self, schedule_id: str) -> bool:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        return self._run_change(schedule_id, "remove") == "done"

    def set_aside(self, schedule_id: str, why: str) -> None:
        """Take a broken schedule out of what is due.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self._run_change(schedule_id, "set_aside", why=json.dumps({"why": why}))

    def _run_change(self, schedule_id: str, action: str, **options: Any) -> str:
        store = self.store
        own = {"most_history": self._most_history, **options}
        _, status = self._callers.run(
            store.keys,
            lambda attempt: store.run(
                *scripts.change_schedule(store.keys, schedule_id, action, attempt=attempt, **own)
            ),
        )
        return stored_text(status)

    def retire_owner(self, incarnation: str) -> list[str]:
        """Remove the schedules of an incarnation that has ended; returns their ids.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self.retire(f"i:{incarnation}", MOST_AT_ONCE)

    def take_entries(self, app_name: str) -> None:
        """Record that the entries of an app's ``beat_schedule`` are fired from here.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self.ask(lambda client: client.hdel(self.store.keys.scheduler, f"elsewhere:{app_name}"))

    def give_entries_up(self, app_name: str) -> list[str]:
        """Record that another scheduler fires the entries of an app's ``beat_schedule``; they are removed here.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        self.ask(lambda client: client.hset(self.store.keys.scheduler, f"elsewhere:{app_name}", "1"))
        return self.retire(f"s:{app_name}", MOST_AT_ONCE, declared_or_not=True)

    def retire(self, owner: str, most: int, *, declared_or_not: bool = False) -> list[str]:
        """Remove the schedules of an owner that is gone; returns their ids.

        Of static ones these are those that no living scheduler declares; or all, ``declared_or_not``.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self.store
        removed: list[str] = []
        while True:
            call = scripts.retire_schedules(
                store.keys, owner, most=most, most_history=self._most_history, declared_or_not=declared_or_not
            )
            _, has_more, *ids = store.run(*call)
            removed += [name.decode() for name in ids]
            if not has_more:
                return removed


def _is_readable(stored: StoredSchedule) -> bool:
    try:
        return bool(stored.state)
    except ValueError:
        return False
