"""One pass of a scheduler: read what is due, decide about it, have Redis accept the fires and advance the schedules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.keys import Keys
from orchestrator.core.log import get_logger
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.rule import decide
from orchestrator.core.schedules.state import Fire, ScheduleState
from orchestrator.core.schedules.triggers import Foreign, SteppedTimes, Times
from orchestrator.core.stored_values import whole_number
from orchestrator.schedules.declared.celery_schedules import NextAfter
from orchestrator.schedules.firing.advances import advance_of, emit_fired, emit_lost, portions
from orchestrator.schedules.firing.due import NOTHING_DUE, DefinitionCache, Due, DueSchedule
from orchestrator.schedules.firing.fire_writer import FireWriter, Lazy
from orchestrator.schedules.housekeeping_message import HousekeepingRounds
from orchestrator.schedules.redis import scripts
from orchestrator.schedules.redis.scripts import Advance, Call, Written
from orchestrator.telemetry import emit, events, has_handlers
from orchestrator.transport.redis.command_connection import CommandConnection

logger = get_logger(__name__)

#: A scheduler's turn. With a look at each second, another one takes over within 2 s.
TURN_MS: Final = 1500

#: After a refused or failed fire it is tried again.
AGAIN_MS: Final = 1000

#: Schedules of the first call of a pass: the first fire must not wait for a hundred decisions.
_FIRST: Final = 10

#: Full parts of a pass after which the caller sees to its own duties, whatever has come of the decisions.
_PARTS: Final = 50

#: For how long a scheduler may take to send a message that no script can accept, before another one sends it.
_CLAIM_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class BoundSchedule:
    """The parts of a schedule that are in this process' code: its times, and its arguments if each fire makes them."""

    next_after: NextAfter | None = None
    lazy: Lazy | None = None
    #: Options with values that are not JSON.
    options: Mapping[str, Any] | None = None


class Firing:
    """Fires what is due, for one scheduler. Not for two threads at once."""

    def __init__(
        self,
        connection: CommandConnection,
        keys: Keys,
        writer: FireWriter,
        scheduler: str,
        *,
        most_history: int,
        next_after_of: Callable[[Foreign], NextAfter | None],
        housekeeping: HousekeepingRounds | None = None,
    ) -> None:
        self._commands = connection
        self._keys = keys
        self._writer = writer
        self._scheduler = scheduler
        self._most_history = most_history
        self._next_after_of = next_after_of
        #: Without it, no housekeeping is started.
        self.housekeeping = housekeeping
        self._definitions = DefinitionCache()
        self._last = NOTHING_DUE
        #: The schedules that code in this process declares, by id.
        self.bound: dict[str, BoundSchedule] = {}
        #: The ids of those that only such a process may fire.
        self.bound_ids: tuple[str, ...] = ()

    def pass_once(
        self, stale_ms: int, mark: str, most: int = scripts.MOST_AT_ONCE, *, with_bound: bool = True
    ) -> tuple[Due, int]:
        """Fire all that is due; returns the last look, and how many schedules were fired.

        While Redis carries out one part, the next one is decided.

        Raises:
            redis.exceptions.RedisError: Redis is away. What was decided is decided again.
        """

        def look(count: int, after: int = 0) -> Call:
            # Bound schedules are not counted among the first ones, and so read only with them.
            return self._due_call(stale_ms, mark, count, with_bound and not after, after)

        due = self._first_look(stale_ms, mark, min(_FIRST, most), with_bound)
        fired = decided = 0
        while due.schedules and decided < most * _PARTS:
            part, ahead = self._decide_all(due.now_ms, due.schedules), due
            # The first part is small and fired alone; then one is decided while the one before is fired.
            fired += self._fire(part, due, look(2 * most))
            decided += len(due.schedules)
            due = self._last
            if len(due.schedules) <= most:
                continue
            part, ahead = self._decide_all(due.now_ms, due.schedules[:most]), due.rest(most)
            while part or ahead.schedules:
                calls = [*self._fire_calls(part), look(most, len(ahead.schedules))]
                self._begin(calls)
                following = self._decide_all(ahead.now_ms, ahead.schedules)
                fired += self._heed(part, self._end(calls), ahead.now_ms)
                decided += max(1, len(ahead.schedules))
                part, ahead = following, self._last
                if decided >= most * _PARTS:
                    # Let the caller see to its own duties now and then.
                    fired += self._fire(part, ahead, look(1))
                    break
            else:
                (reply,) = self._run([look(most)])
                self._last = Due.of(reply)
            due = self._last
        return due, fired

    def _first_look(self, stale_ms: int, mark: str, most: int, with_bound: bool) -> Due:
        rounds = self.housekeeping
        housekeeping = ("", "", "") if rounds is None else rounds.message()
        (reply,) = self._run([self._due_call(stale_ms, mark, most, with_bound, housekeeping=housekeeping)])
        due = Due.of(reply)
        if rounds is not None and housekeeping[0] and due.is_mine:
            rounds.sent()
        return due

    def _fire(self, part: Sequence[Advance], due: Due, then: Call) -> int:
        calls = [*self._fire_calls(part), then]
        self._begin(calls)
        return self._heed(part, self._end(calls), due.now_ms)

    def prepare(self) -> None:
        """Write once what the messages of the next schedules have in common, so that their fires need not wait for it.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        ids = self._commands.call("ZRANGE", self._keys.schedules_due, 0, _FIRST - 1)
        if not ids:
            return
        texts = self._commands.call("HMGET", self._keys.schedules, *ids)
        for raw_id, text in zip(ids, texts, strict=True):
            try:
                definition = self._definitions.read(raw_id.decode(), (text or b"").decode())
                self._writer.prepare(definition)
            except Exception as error:  # noqa: BLE001
                # The fire says it again, where it counts.
                logger.debug("the message of schedule %r could not be prepared: %s", raw_id, error)

    def close(self) -> None:
        """Give the turn back, and close the connections. What cannot be reached is left to the turn's end."""
        try:
            self._run([scripts.end_turn(self._keys, self._scheduler)])
        except ResponseError as error:
            logger.warning("scheduler %s could not give its turn back: %s", self._scheduler, error)
        except (RedisError, OSError) as error:
            # Whoever looks at Redis while it is away reports the outage; the turn ends by itself.
            logger.debug("scheduler %s could not give its turn back: %s", self._scheduler, error)
        self._commands.drop()
        self._writer.forget()

    def _due_call(
        self,
        stale_ms: int,
        mark: str,
        most: int,
        with_bound: bool = True,
        after: int = 0,
        housekeeping: tuple[str, str, str] = ("", "", ""),
    ) -> Call:
        return scripts.due_schedules(
            self._keys,
            self._scheduler,
            self._scheduler,
            turn_ms=TURN_MS,
            most=most,
            stale_ms=stale_ms,
            mark=mark,
            bound=self.bound_ids if with_bound else (),
            after=after,
            housekeeping=housekeeping,
        )

    def _fire_calls(self, advances: Sequence[Advance]) -> Iterable[Call]:
        for some in portions(advances):
            yield scripts.fire(self._keys, some, most_history=self._most_history, again_ms=AGAIN_MS)

    # -- deciding

    def _decide_all(self, now_ms: int, schedules: Sequence[DueSchedule]) -> list[Advance]:
        advances = []
        self._writer.look_around()
        for schedule in schedules:
            try:
                advance = self._advance(schedule, now_ms)
            except InvalidSchedule as error:
                self._set_aside(schedule.id, schedule.shown_id, str(error), whole_number(schedule.fields.get("r", "")))
                continue
            if advance is not None:
                advances.append(advance)
        return advances

    def _advance(self, schedule: DueSchedule, now_ms: int) -> Advance | None:
        """The decision about a schedule that is due.

        Raises:
            InvalidSchedule: its definition or its state cannot be read.
        """
        schedule.check()
        definition = self._definitions.read(schedule.id, schedule.text)
        state = schedule.state()
        bound = self.bound.get(schedule.id)
        try:
            decision = decide(definition, state, now_ms, self._times(definition, bound, state.next_ms or now_ms))
        except Exception as error:  # noqa: BLE001
            return self._failed(schedule, state, now_ms, error)
        message = None
        if decision.fire is not None:
            fire = decision.fire
            try:
                message = self._written(definition, bound, fire)
            except Exception as error:  # noqa: BLE001
                return self._failed(schedule, state, now_ms, error)
            if message is None:
                # Another scheduler sends it.
                return self._postponed(schedule, state, now_ms)
        return advance_of(definition, schedule, state, decision, message)

    def _times(self, definition: ScheduleDefinition, bound: BoundSchedule | None, from_ms: int) -> Times | None:
        """The times of a foreign trigger; ``None`` for any other."""
        if not isinstance(definition.trigger, Foreign):
            return None
        next_after = bound.next_after if bound is not None else None
        if next_after is None:
            next_after = self._next_after_of(definition.trigger)
        return None if next_after is None else SteppedTimes(next_after, from_ms)

    def _written(self, definition: ScheduleDefinition, bound: BoundSchedule | None, fire: Fire) -> Written | None:
        lazy = bound.lazy if bound is not None else None
        options = (bound.options if bound is not None else None) or {}
        if self._writer.is_sent_elsewhere(definition, options):
            # No script accepts it, so that one scheduler has to claim it first.
            key = self._keys.schedule_request(fire.delivery_id)
            if not self._commands.call("SET", key, self._scheduler, "NX", "PX", _CLAIM_MS):
                return None
        return self._writer.write(definition, fire.nominal_ms, fire.delivery_id, fire.coalesced, lazy)

    def _failed(self, schedule: DueSchedule, state: ScheduleState, now_ms: int, error: Exception) -> Advance:
        """A fire that cannot be made, which must stop no other schedule: it is tried again until its grace is over."""
        logger.error(
            "schedule %s cannot fire, next try in %g s: %s: %s",
            schedule.id,
            AGAIN_MS / 1000,
            type(error).__name__,
            error,
            exc_info=error,
        )
        emit(events.SCHEDULE_FAILED, schedule=schedule.id, error=f"{type(error).__name__}: {error}")
        return self._postponed(schedule, state, now_ms)

    def _postponed(self, schedule: DueSchedule, state: ScheduleState, now_ms: int) -> Advance:
        return Advance(schedule.id, state.rev, state.next_ms, state.running, now_ms + AGAIN_MS)

    def _set_aside(self, schedule_id: str, shown_id: str, why: str, rev: int | None = None) -> None:
        logger.error("schedule %s is broken and set aside: %s", shown_id, why)
        emit(events.SCHEDULE_BROKEN, schedule=shown_id, error=why)
        # It is not repeated, so that its answer need not be recorded.
        call = scripts.change_schedule(
            self._keys,
            schedule_id,
            "set_aside",
            rev=rev,
            why=json.dumps({"why": why}),
            most_history=self._most_history,
        )
        self._commands.run(*call)

    # -- acting

    def _heed(self, advances: Sequence[Advance], statuses: Sequence[str], now_ms: int) -> int:
        fired = 0
        tells = has_handlers(events.SCHEDULE_FIRED)
        for advance, status in zip(advances, statuses, strict=True):
            if status == "fired":
                fired += 1
                if tells:
                    emit_fired(advance, now_ms)
            elif status in ("mailbox full", "breaker open"):
                emit(events.SCHEDULE_REFUSED, schedule=advance.id, reason=status)
            elif status == "broken":
                self._set_aside(advance.id, advance.id, "a count of its state is no whole number")
            elif status == "failed":
                logger.error("schedule %s cannot fire: its mailbox is none", advance.id)
                emit(events.SCHEDULE_FAILED, schedule=advance.id, error="its mailbox is a key of another type")
                self._run([_again(self._keys, advance, now_ms, self._most_history)])
            if status in ("fired", "advanced"):
                emit_lost(advance)
        return fired

    def _run(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip; returns their replies."""
        self._begin(calls)
        return self._replies(calls)

    def _begin(self, calls: Sequence[Call]) -> None:
        """Send calls without waiting for their replies."""
        pack = self._commands.connection.pack_command
        self._commands.begin(
            [part for script, keys, args in calls for part in pack("EVALSHA", script.sha, len(keys), *keys, *args)]
        )

    def _replies(self, calls: Sequence[Call]) -> list[Any]:
        replies = self._commands.end(len(calls))
        for at, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                # The server has been restarted; what it did not know it did not run.
                replies[at] = self._commands.run(*calls[at])
            elif isinstance(reply, ResponseError):
                raise reply
        return replies

    def _end(self, calls: Sequence[Call]) -> list[str]:
        """Read the replies to the calls that were begun; the look at their end becomes the last one."""
        *replies, reply = self._replies(calls)
        self._last = Due.of(reply)
        return [status.decode() for one in replies for status in one[1:]]


def _again(keys: Keys, advance: Advance, now_ms: int, most_history: int) -> Call:
    later = Advance(advance.id, advance.rev, advance.nominal_ms, advance.running, now_ms + AGAIN_MS)
    return scripts.fire(keys, [later], most_history=most_history, again_ms=AGAIN_MS)
