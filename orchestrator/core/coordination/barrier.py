"""The rule of barriers: parties arrive, and when all have, the generation trips and the next one may begin.

As Java's ``CyclicBarrier``, but the parties have names, so that a message that is delivered twice is counted once, and
may leave a message in place of waiting. ``coordination/barriers/lua/includes/barriers.lua`` is the same rule over
Redis, with the same names; one state machine drives both. Eager mode runs by this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from orchestrator.core.coordination.lease import CALLER, Life, Owners

#: How often it is looked up whether those who wait still run.
CHECK_MS: Final = 1000

#: For how long it is known which generation a call has arrived at.
CALLS_MS: Final = 3_600_000

#: Why a generation breaks that nobody has broken: its time is over, or `reset` was called.
TIMEOUT: Final = "timeout"
RESET: Final = "reset"

#: Why one who waited is lost although its worker lives.
ATTEMPT_ENDED: Final = "attempt ended"


class OnDeath(StrEnum):
    """The effect of the death of a party that waits."""

    #: The generation breaks.
    BREAK = "break"
    #: The generation has one party less, unless it arrives again.
    SHRINK = "shrink"


class Status(StrEnum):
    """The result of a call."""

    #: Not all parties have arrived.
    WAITING = "waiting"
    #: The generation has tripped or is broken.
    ENDED = "ended"
    #: The party has left the generation, because it was taken for dead.
    LEFT = "left"
    #: Nothing is known of the generation: Redis has lost it, or it ended long ago.
    LOST = "lost"
    #: The owner has no lease.
    GONE = "gone"
    #: Others use the name with other parties, or another `on_death`.
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Arriving:
    """A party arrives; repeated with the same token, it is the same call."""

    party: str
    #: Who calls: a delivery in all of its attempts, or a call of a session.
    caller: str
    token: str
    owner: str
    entry: str = ""
    parties: int = 1
    #: The parties by name, if they are declared so.
    names: tuple[str, ...] = ()
    on_death: OnDeath = OnDeath.BREAK
    timeout_ms: int = 60_000
    #: The messages that are sent when the generation trips, or breaks; empty for none.
    then: str = ""
    if_broken: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a generation."""

    #: Why it is broken; empty if it has tripped.
    reason: str = ""
    #: The party that has broken it, if one has.
    party: str = ""
    #: Of a broken one, who had arrived, in order of names, and how many were missing.
    arrived: tuple[str, ...] = ()
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call."""

    status: Status
    generation: int = 0
    #: Ms until the generation breaks, if it goes on.
    left_ms: int = 0
    ended: Ended | None = None
    #: Why the party has left.
    reason: str = ""


@dataclass(slots=True)
class Waiting:
    """A party whose process waits."""

    owner: str
    entry: str
    token: str


@dataclass(frozen=True, slots=True)
class Call:
    """The last arrival of a caller."""

    generation: int
    entry: str
    token: str
    until_ms: int


@dataclass(slots=True)
class BarrierRecord:
    """A barrier of one name."""

    #: The number of the present generation, or of the last one: grows, as a fencing token does.
    generation: int = 0
    #: 0 before its first use and after a reset for all.
    parties: int = 0
    names: tuple[str, ...] = ()
    on_death: OnDeath = OnDeath.BREAK
    #: When the present generation breaks; 0 if nobody has arrived at one.
    due_ms: int = 0
    #: Why the barrier is broken; empty if it is not. A reset ends that.
    broken: str = ""
    #: When those who wait were last looked up.
    checked_ms: int = 0
    #: Party -> when it arrived.
    arrived: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    #: Parties that the present generation does without, and why.
    gone: dict[str, str] = field(default_factory=dict)
    then: dict[str, str] = field(default_factory=dict)
    if_broken: dict[str, str] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    #: The last reset of each caller that had an effect.
    last_resets: dict[str, str] = field(default_factory=dict)
    #: Messages to be sent; the caller takes them out.
    outbox: list[str] = field(default_factory=list)

    # -- calls

    def arrive(self, request: Arriving, now_ms: int, owners: Owners) -> Reply:
        """Count a party, once in a generation."""
        if owners.life(request.owner) is not Life.ALIVE:
            return Reply(Status.GONE)
        self._catch_up(now_ms, owners)
        # It may be attempted again before anybody has found that the attempt has died in which it waited.
        self._lose_if_dead(request.party, owners)
        earlier = self.calls.get(request.caller)
        if earlier is not None and now_ms < earlier.until_ms:
            # It was repeated because its answer was lost; or the delivery has passed in an attempt before this one.
            is_repeated = earlier.token == request.token
            ended = self.ended.get(earlier.generation)
            has_passed = earlier.entry != request.entry and ended is not None and not ended.reason
            if is_repeated or has_passed:
                self._note_call(request, earlier.generation, now_ms)
                return self._reply(earlier.generation, request.party, now_ms)
        if self.broken:
            return self._reply(self.generation, request.party, now_ms)
        if not self._agree(request):
            return Reply(Status.DIFFERS)
        if not self.due_ms:
            self.generation = max(self.generation + 1, now_ms)
            self.due_ms = now_ms + request.timeout_ms
        self.gone.pop(request.party, None)
        self.waiting.pop(request.party, None)
        self.arrived[request.party] = now_ms
        for messages, text in ((self.then, request.then), (self.if_broken, request.if_broken)):
            messages.pop(request.party, None)
            if text:
                messages[request.party] = text
        self._note_call(request, self.generation, now_ms)
        generation = self.generation
        self._trip_if_complete()
        return self._reply(generation, request.party, now_ms)

    def wait(self, generation: int, party: str, waiting: Waiting, now_ms: int, owners: Owners) -> Reply:
        """Ask what becomes of a generation, at which the party's process waits from now on."""
        self._catch_up(now_ms, owners)
        if generation not in self.ended and owners.life(waiting.owner) is not Life.ALIVE:
            return Reply(Status.GONE, generation)
        reply = self._reply(generation, party, now_ms)
        if reply.status is Status.WAITING:
            self.waiting[party] = waiting
        return reply

    def leave(self, generation: int, party: str, token: str, reason: str, now_ms: int, owners: Owners) -> Reply:
        """A party waits no more, although the generation goes on: that breaks it."""
        self._catch_up(now_ms, owners)
        known = self.waiting.get(party)
        if self.due_ms and generation == self.generation and known is not None and known.token == token:
            self._break(reason, party)
        return self._reply(generation, party, now_ms)

    def reset(self, generation: int, now_ms: int, owners: Owners, *, call: str = "") -> bool:
        """Let the next generation begin; the present one breaks. Only if it is still that generation, unless 0.

        With 0, other parties may use the barrier from then on. A repeated ``call``, whose first answer was lost,
        returns ``True`` again, and changes nothing, also if another one has reset the barrier since.
        """
        if call and self.last_resets.get(call[:CALLER]) == call:
            return True
        self._catch_up(now_ms, owners)
        goes_on = bool(self.broken or self.due_ms)
        if generation and not (goes_on and generation == self.generation):
            return False
        if not goes_on and not self.parties:
            return False
        if call:
            self.last_resets[call[:CALLER]] = call
        if self.due_ms:
            self._break(RESET)
        self.broken = ""
        if not generation:
            self.parties, self.names, self.on_death = 0, (), OnDeath.BREAK
        return True

    def owner_died(self, owner: str, reason: str) -> None:
        """Those who wait in a dead process are lost."""
        for party in sorted(name for name, one in self.waiting.items() if one.owner == owner):
            if party in self.waiting:
                self._lose(party, reason)

    def time_came(self, now_ms: int) -> bool:
        """Break the present generation, if its time is over; returns whether it was."""
        if not self.due_ms or now_ms < self.due_ms:
            return False
        self._break(TIMEOUT)
        return True

    # -- within

    def _catch_up(self, now_ms: int, owners: Owners) -> None:
        self.time_came(now_ms)
        if not self.waiting or (now_ms < self.checked_ms + CHECK_MS and self.checked_ms <= now_ms):
            return
        self.checked_ms = now_ms
        for party in sorted(self.waiting):
            self._lose_if_dead(party, owners)

    def _lose_if_dead(self, party: str, owners: Owners) -> None:
        """Lose a waiting party whose attempt does not run any more."""
        one = self.waiting.get(party)
        if one is None:
            return
        if owners.life(one.owner) is not Life.ALIVE:
            self._lose(party, owners.reason(one.owner))
        elif one.entry and not owners.has_entry(one.owner, one.entry):
            self._lose(party, ATTEMPT_ENDED)

    def _agree(self, request: Arriving) -> bool:
        """Whether the request names the same parties as all others do; the first of them says which, until a reset."""
        asked = request.parties, request.names, request.on_death
        if not self.parties:
            self.parties, self.names, self.on_death = asked
        return asked == (self.parties, self.names, self.on_death)

    def _note_call(self, request: Arriving, generation: int, now_ms: int) -> None:
        self.calls[request.caller] = Call(generation, request.entry, request.token, now_ms + CALLS_MS)

    def _reply(self, generation: int, party: str, now_ms: int) -> Reply:
        ended = self.ended.get(generation)
        if ended is not None:
            return Reply(Status.ENDED, generation, ended=ended)
        if generation != self.generation or not self.due_ms:
            return Reply(Status.LOST, generation)
        if party in self.gone:
            return Reply(Status.LEFT, generation, reason=self.gone[party])
        if party not in self.arrived:
            return Reply(Status.LOST, generation)
        return Reply(Status.WAITING, generation, self.due_ms - now_ms)

    def _trip_if_complete(self) -> None:
        if self.arrived and len(self.arrived) + len(self.gone) >= self.parties:
            self._end(Ended(), self.then)

    def _break(self, reason: str, party: str = "") -> None:
        self.broken = reason
        self._end(Ended(reason, party, tuple(sorted(self.arrived)), self.missing), self.if_broken)

    def _end(self, ended: Ended, messages: dict[str, str]) -> None:
        self.ended[self.generation] = ended
        self.outbox += messages.values()
        self.due_ms = self.checked_ms = 0
        for one in (self.arrived, self.waiting, self.gone, self.then, self.if_broken):
            one.clear()

    def _lose(self, party: str, reason: str) -> None:
        if self.on_death is OnDeath.BREAK:
            self._break(reason, party)
            return
        for one in (self.arrived, self.waiting, self.then, self.if_broken):
            one.pop(party, None)
        self.gone[party] = reason
        self._trip_if_complete()

    # -- reading

    @property
    def missing(self) -> int:
        """The number of parties that have to arrive before the present generation trips."""
        return max(0, self.parties - len(self.arrived) - len(self.gone)) if self.due_ms else self.parties


def missing_names(names: Iterable[str], arrived: Iterable[str], gone: Iterable[str] = ()) -> tuple[str, ...]:
    """The declared names of the parties that have not arrived."""
    there = {*arrived, *gone}
    return tuple(name for name in names if name not in there)
