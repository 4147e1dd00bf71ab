"""The sweep: finds dead incarnations, fences them and requeues their messages.

Death is concluded from a late heartbeat together with a closed connection (Redis sees at once that a process is gone),
or from a lease that has expired. Sweepers take turns. A turn is a lease with a fencing token, the number of the sweep;
every script that changes anything checks it. A sweeper that stalled, and whose turn went to another, is refused, so
what it saw before does no harm.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.errors import InfrastructureError
from orchestrator.core.keys import DOORBELL, Keys
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_text
from orchestrator.telemetry import emit, events
from orchestrator.transport.liveness.closed_clients import closed_clients, is_closed
from orchestrator.transport.liveness.proof import proof_of_death
from orchestrator.transport.options import DeathHook, Options
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.refusals import is_unreadable

logger = get_logger(__name__)

T = TypeVar("T")

#: Entries requeued per script: Redis is never held for longer than a few milliseconds.
RECLAIM_BATCH = 100

#: How long a connection may be missing after a gap before that counts as death: time to reconnect.
_RECONNECT_GRACE_S = 2.0

#: How often one sweeper begins to look for orphans: claims whose holder is not known any more.
_ORPHANS_EVERY_S = 10.0

#: A consumer that acknowledges nothing counts as gone when it has not read for this long.
_READER_S = 60.0

#: Queues searched for orphans per sweep: the work of one script must not grow with their number.
_ORPHAN_QUEUES = 50

#: Incarnations that ask for no messages, looked at per sweep.
_STUCK_BATCH = 100

#: A sweeper that takes no step for this long has lost its turn. A step takes milliseconds; the next sweep is due after
#: a second.
TURN_S = 2.0

#: Longest time for the death hooks of one sweep; the rest is for the next one.
_DEATH_HOOKS_S = 1.0

#: Longest time in one sweep for incarnations whose messages were requeued before; the others come next time.
_AGAIN_S = 1.0

#: Fenced incarnations listed at a time.
_DYING_PAGE = 1000

#: Ending one's own incarnation needs no turn.
_NO_TURN = ""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one sweep found."""

    late: int
    dead: tuple[str, ...]
    moved: int
    dead_lettered: int
    #: Whether it was another sweeper's turn, or another one took over; what is not done here, that one does.
    stood_back: bool = False
    #: Milliseconds until an incarnation whose connections are closed, and which may still connect again, is dead.
    again_ms: int | None = None


class RecordedDeath(NamedTuple):
    """A death with a proof, and what became of the messages that the incarnation held."""

    #: As it was recorded: a kill may have been the OOM killer's.
    reason: str
    #: ``None`` if it was found so long before that this is not known any more.
    requeued: int | None
    dead_lettered: int | None


class _TurnLost(Exception):
    """Another sweeper has taken over."""


class Sweeper:
    """Looks for dead incarnations. One per process that sweeps; not for two threads at once."""

    def __init__(self, commands: CommandConnection, keys: Keys, options: Options, levels: Sequence[str]) -> None:
        self._commands = commands
        self._keys = keys
        self._options = options
        self._levels = (*levels, DOORBELL)
        self._orphans_searched_at = float("-inf")
        self._queues_to_search: list[bytes] = []
        self._stuck_from = 0
        self._name = uuid.uuid4().hex
        #: Fenced incarnations whose death hooks are done. Nothing is added to a fenced incarnation's record.
        self._death_hooks_done: set[str] = set()
        #: Other fenced incarnation -> its hooks that are done.
        self._hooks_done: dict[str, set[DeathHook]] = {}
        #: Fenced incarnations whose messages were requeued, and those whose death hooks have run, each in the order in
        #: which that was last done, so that none waits behind others that never finish.
        self._reclaimed: dict[str, None] = {}
        #: Incarnations and mailboxes of which it was logged that a key of them cannot be read.
        self._logged: set[tuple[str, str]] = set()
        self._death_hooks_run: dict[str, None] = {}

    def sweep(self, by: str) -> SweepResult:
        """Judge late incarnations, fence dead ones and requeue their messages, unless it is another sweeper's turn.

        ``by`` is the sweeper's name in the record of deaths.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable; the next round goes on from here.
        """
        turn, *seen = self._take_turn(by)
        if not turn and self._is_over(*seen):
            turn, *seen = self._take_turn(by)
        if not turn:
            return SweepResult(0, (), 0, 0, stood_back=True)
        emit(events.SWEEP_STARTED, by=by)
        try:
            result = self._round(turn, by, *seen)
            self._run_due()
            return result
        except _TurnLost:
            logger.warning("sweep of %s abandoned: it took too long, and another sweeper has taken over", by)
            return SweepResult(0, (), 0, 0, stood_back=True)

    def _take_turn(self, by: str) -> Any:
        connection = self._commands.client()
        reply = self._commands.run(*self._beginning(by, connection))
        current = self._commands.client()
        if current != connection:
            # It was opened again on the way: another sweeper would take the turn for that of a dead one.
            reply = self._commands.run(*self._beginning(by, current))
        return reply

    def _beginning(self, by: str, connection: str) -> Call:
        o = self._options
        return commands.begin_sweep(
            self._keys,
            # fence.lua finds the turn of a dead sweeper by host and process id.
            f"{socket.gethostname()}:{os.getpid()}:{self._name}",
            by,
            late_ms=to_ms(o.heartbeat_timeout_s),
            gap_ms=to_ms(o.sweep_gap_s),
            closed_grace_ms=to_ms(_RECONNECT_GRACE_S),
            old_heartbeat_grace_ms=to_ms(o.lease_s),
            turn_ms=to_ms(TURN_S),
            connection=connection,
        )

    def _is_over(self, turn: int, connection: bytes) -> bool:
        """End another sweeper's turn if its connection is closed; returns whether it was.

        If that sweeper lives and connects again, it has lost its turn, and is refused.
        """
        if not is_closed(self._commands, connection):
            return False
        self._commands.run(*commands.end_sweep(self._keys, turn))
        return True

    def _round(self, turn: int, by: str, *seen: Any) -> SweepResult:
        now, closed_counts, old_heartbeat_counts, _since, not_polling, *late = seen
        dead: list[str] = []
        again_ms = None
        clients = [client for _, _, *both, _ in late for client in both]
        gone = closed_clients(self._commands, clients) if late and closed_counts else set()
        for raw_id, beat, client, heart, round_trip_ms in late:
            silent_ms = now - int(float(beat))
            both_closed = client in gone and (not heart or heart in gone)
            grace_ms = self._options.closed_after_ms(int(round_trip_ms), has_heart=bool(heart))
            if both_closed and silent_ms > grace_ms:
                reason = DeathReason.KILLED
            elif old_heartbeat_counts and silent_ms > to_ms(self._options.lease_s):
                reason = DeathReason.LOST
            else:
                if both_closed:
                    again_ms = min(again_ms or to_ms(TURN_S), max(1, grace_ms + 1 - silent_ms))
                continue
            end = partial(self._end, turn, raw_id, beat, reason, by, silent_ms)
            dead += self._apart(stored_text(raw_id), end) or ()
        if not_polling:
            for raw_id, beat in self._stuck():
                silent_ms = max(0, now - int(float(beat)))
                end = partial(self._end, turn, raw_id, beat, DeathReason.STUCK, by, silent_ms)
                dead += self._apart(stored_text(raw_id), end) or ()
        self._apart("", lambda: self._find_orphans(turn))
        moved, dead_lettered = self._reclaim_all(turn)
        self._commands.run(*commands.end_sweep(self._keys, turn))
        emit(events.SWEPT, {"late": len(late), "dead": len(dead)}, by=by)
        return SweepResult(len(late), tuple(dead), moved, dead_lettered, again_ms=again_ms)

    def _apart(self, incarnation: str, act: Callable[[], T]) -> T | None:
        """Do something for one incarnation; a key of it that something else has written must not hold up the others."""
        try:
            return act()
        except ResponseError as error:
            if not is_unreadable(error):
                raise
            what = f"what is to be done for incarnation {incarnation}" if incarnation else "looking for orphans"
            self._log_once((incarnation, ""), "%s is left until the next sweep: %s", what, error)
            return None

    def _log_once(self, what: tuple[str, str], text: str, *args: object) -> None:
        if what not in self._logged:
            self._logged.add(what)
            logger.error(text, *args)

    def _run_due(self) -> None:
        if self._options.on_sweep is None:
            return
        try:
            self._options.on_sweep()
        except InfrastructureError as away:
            # Finding the dead must not depend on it.
            logger.warning("work that is due at a sweep failed; the next sweep tries it again: %s", away)
        except Exception:
            logger.exception("work that is due at a sweep failed; the next sweep tries it again")

    def _find_orphans(self, turn: int) -> None:
        k = self._keys
        if not self._queues_to_search and monotonic() - self._orphans_searched_at > _ORPHANS_EVERY_S:
            self._orphans_searched_at = monotonic()
            self._queues_to_search = list(self._commands.call("SMEMBERS", k.queues))
        queues = self._queues_to_search[:_ORPHAN_QUEUES]
        if not queues:
            return
        call = commands.find_orphans(
            k, self._levels, queues, turn=turn, turn_ms=to_ms(TURN_S), reader_idle_ms=to_ms(_READER_S)
        )
        for orphaned in self._step(call):
            logger.warning("orphaned messages of incarnation %s are requeued: it has no lease", stored_text(orphaned))
        del self._queues_to_search[:_ORPHAN_QUEUES]

    def _stuck(self) -> list[tuple[bytes, bytes]]:
        late_ms = to_ms(self._options.heartbeat_timeout_s)
        call = commands.find_stuck(
            self._keys, self._levels, late_ms=late_ms, first=self._stuck_from, count=_STUCK_BATCH
        )
        self._stuck_from, *found = self._commands.run(*call)
        return list(zip(found[::2], found[1::2], strict=True))

    def _end(
        self, turn: int, raw_id: bytes, beat: bytes, judged: DeathReason, by: str, silent_ms: int
    ) -> tuple[str, ...]:
        try:
            incarnation = raw_id.decode()
        except UnicodeDecodeError:
            # Something else has written it, and it must not keep the dead from being found.
            logger.warning("%r is removed from %s: it is no id of an incarnation", raw_id, self._keys.leases)
            self._commands.call("ZREM", self._keys.leases, raw_id)
            return ()
        reason = self._fence(turn, incarnation, beat, judged, by)
        if not reason:
            return ()
        logger.warning(
            "incarnation %s declared dead: %s; its last heartbeat was %d ms ago", incarnation, reason, silent_ms
        )
        if judged is DeathReason.STUCK:
            emit(events.AGENT_STUCK, incarnation=incarnation, by=by)
        emit(events.AGENT_DEAD, {"silent_s": silent_ms / 1000}, incarnation=incarnation, reason=reason, by=by)
        return (incarnation,)

    def retire(self, incarnation: str, reason: DeathReason, error: str = "") -> None:
        """End one's own incarnation, and requeue at once what it still holds.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        self.prove_death(incarnation, reason, by=incarnation, error=error)
        self._reclaim(_NO_TURN, incarnation)

    def record_death(
        self, incarnation: str, reason: DeathReason, *, by: str, error: str = "", saw_end: bool = True
    ) -> RecordedDeath | None:
        """End an incarnation whose process is known to have ended, and requeue at once what it held.

        If its heart or a sweep has found the death before, that record gets the reason and the error, if ``by`` saw
        how the process ended (``saw_end``).

        Returns ``None`` if nothing was recorded: it is not known, or its record says already how it has ended.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable.
        """
        recorded = self.prove_death(incarnation, reason, by=by, error=error)
        if recorded:
            return RecordedDeath(recorded, *self._reclaim(_NO_TURN, incarnation))
        return self._complete(incarnation, reason, by, error) if error and saw_end else None

    def _complete(self, incarnation: str, reason: DeathReason, by: str, error: str) -> RecordedDeath | None:
        found = self._commands.run(*commands.complete_death(self._keys, incarnation, reason.value, by, error=error))
        if not found:
            return None
        raw_reason, may_hold, requeued, dead_lettered = found
        if may_hold:
            more = self._reclaim(_NO_TURN, incarnation)
            requeued, dead_lettered = requeued + more[0], dead_lettered + more[1]
        if requeued < 0:
            return RecordedDeath(stored_text(raw_reason), None, None)
        return RecordedDeath(stored_text(raw_reason), requeued, dead_lettered)

    def prove_death(self, incarnation: str, reason: DeathReason, *, by: str, error: str = "") -> str:
        """End an incarnation whose process is known to have ended, or which ends itself.

        Returns the reason as it was recorded; '' if it had no lease.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        recorded = self._commands.run(*proof_of_death(self._keys, incarnation, reason, by=by, error=error))
        return stored_text(recorded) if recorded else ""

    def _step(self, call: Call) -> Any:
        try:
            return self._commands.run(*call)
        except ResponseError as error:
            if str(error).startswith("STALETURN"):
                raise _TurnLost from error
            raise

    def _fence(
        self, turn: int | str, incarnation: str, beat: bytes | str, reason: DeathReason, by: str, error: str = ""
    ) -> str:
        """Fence an incarnation; returns the recorded reason, or '' if a heartbeat came meanwhile."""
        call = commands.fence(
            self._keys, incarnation, reason.value, by, beat=beat, turn=turn, turn_ms=to_ms(TURN_S), error=error
        )
        said = self._step(call)
        return stored_text(said) if said else ""

    def _reclaim_all(self, turn: int) -> tuple[int, int]:
        moved = dead_lettered = 0
        dying = self._dying()
        until = None
        for incarnation in _in_line(dying, self._reclaimed):
            if incarnation in self._reclaimed:
                # From here on, their messages were requeued at least once.
                until = until or monotonic() + _AGAIN_S
                if monotonic() > until:
                    break
            _to_the_end(self._reclaimed, incarnation)
            more, count = self._apart(incarnation, lambda: self._reclaim(turn, incarnation)) or (0, 0)  # noqa: B023
            moved += more
            dead_lettered += count
        self._run_all_death_hooks(dying)
        return moved, dead_lettered

    def _dying(self) -> list[str]:
        """The fenced incarnations, in the order in which they were fenced."""
        dying: dict[str, None] = {}
        page = [b""] * _DYING_PAGE
        while len(page) == _DYING_PAGE:
            # Incarnations that retire come and go meanwhile, so places in the list change.
            page = self._commands.call("ZRANGE", self._keys.dying, len(dying), len(dying) + _DYING_PAGE - 1)
            dying.update((raw.decode(errors="replace"), None) for raw in page)
        return list(dying)

    def _run_all_death_hooks(self, dying: Sequence[str]) -> None:
        if not self._options.on_death:
            return
        self._death_hooks_done.intersection_update(dying)
        for gone in self._hooks_done.keys() - dying:
            del self._hooks_done[gone]
        until = monotonic() + _DEATH_HOOKS_S
        for incarnation in _in_line([one for one in dying if one not in self._death_hooks_done], self._death_hooks_run):
            _to_the_end(self._death_hooks_run, incarnation)
            self.run_death_hooks(incarnation)
            if monotonic() > until:
                break

    def run_death_hooks(self, incarnation: str) -> None:
        """Run some of the death hooks of a fenced incarnation. Once all are done, any sweeper may forget it."""
        hooks, known = self._options.on_death, self._keys.incarnation(incarnation)
        if not hooks:
            return
        reason = stored_text(self._commands.call("HGET", known, "reason") or b"lost")
        done = self._hooks_done.setdefault(incarnation, set())
        for hook in hooks:
            try:
                if hook not in done and hook(incarnation, reason):
                    done.add(hook)
            except InfrastructureError as away:
                # Neither requeueing nor the other hooks must depend on it. It is called again in the next sweep.
                text = "a death hook of incarnation %s failed; the next sweep runs it again: %s"
                logger.warning(text, incarnation, away)
            except Exception:
                logger.exception("a death hook of incarnation %s failed; the next sweep runs it again", incarnation)
        if len(done) == len(hooks):
            del self._hooks_done[incarnation]
            self._death_hooks_done.add(incarnation)
            self._commands.call("HDEL", known, "on_death")

    def _reclaim(self, turn: int | str, incarnation: str) -> tuple[int, int]:
        o = self._options
        moved = dead_lettered = 0
        more = 1
        while more:
            call = commands.reclaim(
                self._keys,
                incarnation,
                self._levels,
                max_deaths=int(o.max_deaths),
                ttl_ms=to_ms(o.outcome_ttl_s),
                batch=RECLAIM_BATCH,
                linger_ms=to_ms(2 * o.block_s + 1),
                turn=turn,
                turn_ms=to_ms(TURN_S),
                death_hooks_done=incarnation in self._death_hooks_done if o.on_death else None,
            )
            requeued, more, count, *unreadable = self._step(call)
            if unreadable:
                queue, why = map(stored_text, unreadable)
                self._log_once(
                    (incarnation, queue),
                    "the messages of mailbox %s stay with dead incarnation %s: %s",
                    queue,
                    incarnation,
                    why,
                )
            moved += requeued
            dead_lettered += count
        if moved:
            logger.warning(
                "%d messages of dead incarnation %s requeued, %d of them dead-lettered",
                moved,
                incarnation,
                dead_lettered,
            )
            emit(events.RECLAIMED, {"moved": moved, "dead_lettered": dead_lettered}, incarnation=incarnation)
        return moved, dead_lettered


def _in_line(ids: Sequence[str], done: dict[str, None]) -> list[str]:
    """Ids for which nothing was done yet, then the others, least recently done first; forgets those not in ``ids``."""
    there = set(ids)
    for gone in [one for one in done if one not in there]:
        del done[gone]
    return [*(one for one in ids if one not in done), *done]


def _to_the_end(line: dict[str, None], incarnation: str) -> None:
    line.pop(incarnation, None)
    line[incarnation] = None
