"""Finding dead incarnations and handing their messages on.

Death is concluded from a late heartbeat together with a closed connection (Redis knows at once when a process
is gone), or from a lease that ran out. Sweepers take turns. A turn is a lease with a fencing token (the number of
the sweep), which every step that changes anything shows: a sweeper that stalled, and whose turn went to another,
is refused. Whatever it saw before it stalled can so do no harm.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from redis.exceptions import ResponseError

from orchestrator.core.clock import to_ms
from orchestrator.core.death import DeathReason
from orchestrator.core.keys import DOORBELL, GROUP, Keys
from orchestrator.core.log import get_logger
from orchestrator.telemetry import emit, events
from orchestrator.transport.liveness.proof import proof_of_death
from orchestrator.transport.options import Options
from orchestrator.transport.redis.command_connection import CommandConnection

logger = get_logger(__name__)

#: Entries handed on per script: Redis is never held for longer than a few milliseconds.
RECLAIM_BATCH = 100

#: How long a connection may be missing after a gap before that counts as death: time to reconnect.
_RECONNECT_GRACE_S = 2.0

#: How often one sweeper begins to look for messages held by nobody it knows.
_STRAYS_EVERY_S = 10.0

#: A consumer that acknowledges nothing is gone when it has not read for so long.
_READER_S = 60.0

#: Of so many queues per sweep: what one script asks of Redis must not grow with how many there are.
_STRAYS_QUEUES = 50

#: Of those that ask for no messages, so many are looked at per sweep.
_STUCK_BATCH = 100

#: A sweeper that takes no step for this long has lost its turn. A step takes milliseconds; the next sweep is due after
#: a second.
TURN_S = 2.0

#: Of a sweep, what deaths entail beyond their mail takes this long at most; the rest is for the next one.
_MOURN_S = 1.0

#: Of a sweep, looking again at those that were dealt with before takes this long at most; the others come next time.
_AGAIN_S = 1.0

#: The dying are listed so many at a time.
_DYING_PAGE = 1000

#: Who ends its own incarnation needs no turn.
_OWN_WORD = ""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one sweep found."""

    late: int
    dead: tuple[str, ...]
    moved: int
    dead_lettered: int
    #: Another sweeper had its turn, or took over in the middle: what is not done here, it does.
    stood_back: bool = False


class _TurnLost(Exception):
    """Another sweeper has taken over."""


class Sweeper:
    """Looks for the dead. One per process that sweeps; not for two threads at once."""

    def __init__(self, wire: CommandConnection, keys: Keys, options: Options, steps: Sequence[str]) -> None:
        self._commands = wire
        self._keys = keys
        self._options = options
        self._steps = (*steps, DOORBELL)
        self._looked_for_strays_at = float("-inf")
        self._not_looked_through: list[bytes] = []
        self._stuck_from = 0
        self._name = uuid.uuid4().hex
        #: Those among the dying whose deaths entail nothing more. Nothing is done to a fenced incarnation's name.
        self._death_hooks_run: set[str] = set()
        #: Those among the dying whose mail was handed on, and those whose deaths were begun to be mourned: each by when
        #: that was last done, so that nobody waits behind others whose turn never ends.
        self._reclaimed: dict[str, None] = {}
        self._begun: dict[str, None] = {}

    def sweep(self, by: str) -> SweepResult:
        """One round, if it is not another sweeper's turn: judge who is late, fence the dead, hand on what they held.

        Raises:
            redis.exceptions.RedisError: Redis is away; the next round goes on from here.
        """
        o, k = self._options, self._keys
        graces = [to_ms(o.suspect_s), to_ms(o.sweep_gap_s), to_ms(_RECONNECT_GRACE_S), to_ms(o.lease_s)]
        turn, *seen = self._commands.run(
            "begin_sweep", [k.leases, k.sweep, k.silent], [*graces, by, k.root, self._name, to_ms(TURN_S)]
        )
        if not turn:
            return SweepResult(0, (), 0, 0, stood_back=True)
        emit(events.SWEEP_STARTED, by=by)
        try:
            return self._round(turn, by, *seen)
        except _TurnLost:
            logger.warning("%s stalled in the middle of a sweep, and another sweeper has taken over", by)
            return SweepResult(0, (), 0, 0, stood_back=True)

    def _round(self, turn: int, by: str, *seen: Any) -> SweepResult:
        k = self._keys
        now, closed_counts, silence_counts, _since, silent, *late = seen
        dead: list[str] = []
        gone = self._gone([one for _, _, *both, _ in late for one in both]) if late and closed_counts else set()
        for raw_id, beat, client, heart, round_trip_ms in late:
            silent_ms = now - int(float(beat))
            both_closed = client in gone and (not heart or heart in gone)
            grace_ms = self._options.closed_after_ms(int(round_trip_ms), has_heart=bool(heart))
            if both_closed and silent_ms > grace_ms:
                reason = DeathReason.KILLED
            elif silence_counts and silent_ms > to_ms(self._options.lease_s):
                reason = DeathReason.LOST
            else:
                continue
            dead += self._end(turn, raw_id, beat, reason, by, silent_ms)
        if silent:
            for raw_id, beat in self._stuck():
                dead += self._end(turn, raw_id, beat, DeathReason.STUCK, by, max(0, now - int(float(beat))))
        self._look_for_strays(turn)
        moved, dead_lettered = self._reclaim_all(turn)
        self._commands.run("end_sweep", [k.sweep], [turn])
        emit(events.SWEPT, {"late": len(late), "dead": len(dead)}, by=by)
        return SweepResult(len(late), tuple(dead), moved, dead_lettered)

    def _look_for_strays(self, turn: int) -> None:
        k = self._keys
        if not self._not_looked_through and monotonic() - self._looked_for_strays_at > _STRAYS_EVERY_S:
            self._looked_for_strays_at = monotonic()
            self._not_looked_through = list(self._commands.call("SMEMBERS", k.queues))
        queues = self._not_looked_through[:_STRAYS_QUEUES]
        if not queues:
            return
        args = [k.root, GROUP, turn, to_ms(TURN_S), to_ms(_READER_S), len(self._steps), *self._steps, *queues]
        for stray in self._step("find_orphans", [k.leases, k.dying, k.sweep], args):
            logger.warning("%s held messages although it is long gone", stray.decode())
        del self._not_looked_through[:_STRAYS_QUEUES]

    def _stuck(self) -> list[tuple[bytes, bytes]]:
        k = self._keys
        args = [to_ms(self._options.suspect_s), k.root, GROUP, self._stuck_from, _STUCK_BATCH, *self._steps]
        self._stuck_from, *found = self._commands.run("find_stuck", [k.silent, k.leases], args)
        return list(zip(found[::2], found[1::2], strict=True))

    def _end(
        self, turn: int, raw_id: bytes, beat: bytes, judged: DeathReason, by: str, silent_ms: int
    ) -> tuple[str, ...]:
        incarnation = raw_id.decode()
        reason = self._fence(turn, incarnation, beat, judged, by)
        if not reason:
            return ()
        logger.warning("%s is dead (%s, silent for %d ms)", incarnation, reason, silent_ms)
        if judged is DeathReason.STUCK:
            emit(events.AGENT_STUCK, incarnation=incarnation, by=by)
        emit(events.AGENT_DEAD, {"silent_s": silent_ms / 1000}, incarnation=incarnation, reason=reason, by=by)
        return (incarnation,)

    def retire(self, incarnation: str, reason: DeathReason, error: str = "") -> None:
        """End an incarnation by its own word, and hand on at once what it still holds."""
        self.prove_death(incarnation, reason, by=incarnation, error=error)
        self._reclaim(_OWN_WORD, incarnation)

    def prove_death(self, incarnation: str, reason: DeathReason, *, by: str, error: str = "") -> bool:
        """End an incarnation whose process is known to have ended, or which ends itself; whether it had a lease.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        return bool(self._commands.run(*proof_of_death(self._keys, incarnation, reason, by=by, error=error)))

    def _step(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return self._commands.run(script, keys, args)
        except ResponseError as error:
            if str(error).startswith("STALETURN"):
                raise _TurnLost from error
            raise

    def _fence(
        self, turn: int | str, incarnation: str, beat: bytes | str, reason: DeathReason, by: str, error: str = ""
    ) -> str:
        """Returns the reason as it was recorded; empty if the incarnation was heard from meanwhile."""
        k = self._keys
        keys = [k.leases, k.dying, k.deaths, k.incarnation(incarnation), k.sweep, k.silent]
        said = self._step("fence", keys, [incarnation, beat, reason.value, by, turn, to_ms(TURN_S), k.root, error])
        return said.decode() if said else ""

    def _gone(self, clients: Sequence[bytes]) -> set[bytes]:
        """Those of the connections (``id name server``) that Redis no longer has.

        Ids start anew when the server does: whoever was not heard of since a restart or a failover may be on its way
        here, so the lease alone tells of it.
        """
        try:
            server = self._commands.server().encode()
            parts = {client: client.split(b" ") for client in clients if b" " in client}
            asked = {client: known[:2] for client, known in parts.items() if known[2:] in ([], [server])}
            if not asked:
                return set()
            listed = self._commands.call("CLIENT", "LIST", "ID", *(ident for ident, _ in asked.values()))
            if self._commands.server().encode() != server:
                return set()
        except ResponseError:
            # Not allowed here (ACL, a managed Redis): then only the lease tells.
            logger.debug("CLIENT LIST refused", exc_info=True)
            return set()
        if isinstance(listed, str):
            listed = listed.encode()
        alive = set()
        for line in listed.splitlines():
            pairs = dict(part.split(b"=", 1) for part in line.split() if b"=" in part)
            alive.add((pairs.get(b"id"), pairs.get(b"name")))
        return {client for client, (ident, name) in asked.items() if (ident, name) not in alive}

    def _reclaim_all(self, turn: int) -> tuple[int, int]:
        moved = dead_lettered = 0
        dying = self._dying()
        until = None
        for incarnation in _in_line(dying, self._reclaimed):
            if incarnation in self._reclaimed:
                # Nobody is left whose mail nobody has seen to.
                until = until or monotonic() + _AGAIN_S
                if monotonic() > until:
                    break
            more, buried = self._reclaim(turn, incarnation)
            _to_the_end(self._reclaimed, incarnation)
            moved += more
            dead_lettered += buried
        self._mourn(dying)
        return moved, dead_lettered

    def _dying(self) -> list[str]:
        """Those who were fenced, the first of them first."""
        dying: dict[str, None] = {}
        page = [b""] * _DYING_PAGE
        while len(page) == _DYING_PAGE:
            # Those who retire by their own word come and go meanwhile: a place in the list is not for ever.
            page = self._commands.call("ZRANGE", self._keys.dying, len(dying), len(dying) + _DYING_PAGE - 1)
            dying.update((raw.decode(), None) for raw in page)
        return list(dying)

    def _mourn(self, dying: Sequence[str]) -> None:
        if self._options.on_death is None:
            return
        self._death_hooks_run.intersection_update(dying)
        until = monotonic() + _MOURN_S
        for incarnation in _in_line([one for one in dying if one not in self._death_hooks_run], self._begun):
            _to_the_end(self._begun, incarnation)
            self.run_death_hooks(incarnation)
            if monotonic() > until:
                break

    def run_death_hooks(self, incarnation: str) -> None:
        """Do some of what a death entails beyond the mail. Once all is done, anybody may forget the dead."""
        on_death, known = self._options.on_death, self._keys.incarnation(incarnation)
        if on_death is None:
            return
        reason = self._commands.call("HGET", known, "reason") or b"lost"
        try:
            if on_death(incarnation, reason.decode()):
                self._death_hooks_run.add(incarnation)
                self._commands.call("HDEL", known, "on_death")
        except Exception:
            # Handing mail on must not depend on it. It is called again in the next sweep.
            logger.exception("what the death of %s entails is not done", incarnation)

    def _reclaim(self, turn: int | str, incarnation: str) -> tuple[int, int]:
        k, o = self._keys, self._options
        moved = dead_lettered = 0
        more = 1
        while more:
            step, more, buried = self._step(
                "reclaim",
                [k.dying, k.incarnation(incarnation), k.queues, k.sweep],
                [
                    k.root,
                    incarnation,
                    GROUP,
                    int(o.max_deaths),
                    to_ms(o.outcome_ttl_s),
                    RECLAIM_BATCH,
                    to_ms(2 * o.block_s + 1),
                    turn,
                    to_ms(TURN_S),
                    "" if o.on_death is None else int(incarnation in self._death_hooks_run),
                    *self._steps,
                ],
            )
            moved += step
            dead_lettered += buried
        if moved:
            logger.warning("%s: %d messages handed on, %d of them dead letters", incarnation, moved, dead_lettered)
            emit(events.RECLAIMED, {"moved": moved, "dead_lettered": dead_lettered}, incarnation=incarnation)
        return moved, dead_lettered


def _in_line(ids: Sequence[str], done: dict[str, None]) -> list[str]:
    """Those nothing was done for yet, then the others by when it was last done. Who is gone is forgotten."""
    there = set(ids)
    for gone in [one for one in done if one not in there]:
        del done[gone]
    return [*(one for one in ids if one not in done), *done]


def _to_the_end(line: dict[str, None], incarnation: str) -> None:
    line.pop(incarnation, None)
    line[incarnation] = None
