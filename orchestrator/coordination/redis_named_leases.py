"""Permits under names in Redis. Each change is one script; see ``lua/``."""

from __future__ import annotations

import json
import os
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.coordination import commands
from orchestrator.coordination.late_releases import LateReleases
from orchestrator.coordination.named_leases import Grant, NamedLeases, NameState, Wanted
from orchestrator.coordination.script_runner import ScriptRunner
from orchestrator.core.clock import to_ms
from orchestrator.core.coordination.lease import NOT_TAKEN, HeldPermit, Kind, Status
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import BrokerUnavailable, CallerError, LeaseTaken, NoCandidate, OwnerGone, PoolEmpty
from orchestrator.core.stored_values import stored_text
from orchestrator.telemetry import emit, events
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.lost_answers import Callers, again_if_lost
from orchestrator.transport.redis.patience import outlast
from orchestrator.transport.store import Store
from orchestrator.worker.execution.owner import Owner

#: Longest sleep of the first requests in the line: what woke it may have been lost, and nobody reports that the process
#: of an attempt was killed.
_SLICE_S: Final = 1.0

#: How many are the first ones. The others sleep twice as long: who is before them looks after the holder.
_FIRST: Final = 2

#: Pause before the next request where Redis cannot be slept on.
_PAUSE_S: Final = 0.05

#: Permits that one script releases.
_DEATH_BATCH: Final = 20

#: Seconds for which one call of :meth:`RedisNamedLeases.on_death` works.
_ON_DEATH_S: Final = 0.4

_PACKAGE: Final = "orchestrator.coordination"

#: Candidates that are listed.
_LISTED: Final = 100

#: For how long it is remembered which term was last announced: longer than an election's terms are.
_ANNOUNCED_MS: Final = 15 * 86_400_000

#: Releases that are remembered: more than a failover of Redis can lose of one process.
_REMEMBERED: Final = 1000

#: Names that one script reads.
_PAGE: Final = 50


class RedisNamedLeases(NamedLeases):
    """Permits in the Redis behind a store, which is opened when it is first needed."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        runner = ScriptRunner(open_store, _PACKAGE)
        self._run, self._call = runner.run, runner.call
        self._late = LateReleases(self._run_release)
        self._callers = Callers()
        #: Tokens of the requests that this process has released last, the oldest first.
        self._released: OrderedDict[str, None] = OrderedDict()

    @property
    def _store(self) -> Store:
        return self._open_store()

    # -- asking

    def acquire(self, wanted: Wanted) -> Grant:
        """Wait for a permit."""
        token = os.urandom(16).hex()
        until = monotonic() + wanted.wait_s
        try:
            while True:
                grant, ahead = outlast(until, lambda: self._ask(wanted, token, until - monotonic()))
                if grant is not None:
                    return grant
                slice_s = _SLICE_S if ahead < _FIRST else 2 * _SLICE_S
                # Those who came together must not ask together each time.
                woken = self._sleep([token], min(until - monotonic(), slice_s * random.uniform(0.8, 1.0)))
                if woken is not None:
                    return self._granted(wanted, token, *stored_text(woken[1]).split(" ", 2))
                outlast(until, lambda: self._release_again(wanted))
        except (CallerError, LeaseTaken, PoolEmpty, OwnerGone):
            # The script has said so, and nothing is in the line.
            raise
        except BaseException:
            # Nothing must be granted to a request that nobody waits for any more.
            self.withdraw(wanted, token)
            raise

    def ask(self, wanted: Wanted, token: str, left_s: float) -> Grant | None:
        """Ask once, with ``left_s`` seconds left to wait; ``None`` to ask again. Raises as :meth:`acquire`."""
        return self._ask(wanted, token, left_s)[0]

    def _ask(self, wanted: Wanted, token: str, left_s: float) -> tuple[Grant | None, int]:
        """Ask once; without a grant, the number of requests before this one."""
        # This process may have released the name while Redis was away: else it would wait for itself.
        self._late.run_now(lambda call: commands.is_release_of(call, wanted.kind, wanted.name))
        request = wanted.request(token, max(0.0, left_s))
        raw, *values = self._run(commands.acquire(self._store.keys, wanted.kind, wanted.name, request))
        match Status(stored_text(raw)):
            case Status.GRANTED:
                fence, since_ms, resource, is_new = values
                if wanted.reentrant and not is_new and self._release_again(wanted):
                    # It has entered what is held by mistake, with an old fence.
                    self._run_release(self._release_call(wanted.kind, wanted.name, token, NOT_TAKEN))
                    return self._ask(wanted, token, left_s)
                grant = self._granted(wanted, token, fence, since_ms, stored_text(resource))
                if is_new:
                    kind, owner = wanted.kind.value, wanted.owner.id
                    emit(events.LEASE_GRANTED, kind=kind, lease=wanted.name, owner=owner, fence=grant.fence)
                return grant, 0
            case Status.WAITING:
                return None, int(values[0])
            case Status.HELD | Status.TAKEN | Status.DIFFERS if self._release_again(wanted):
                return self._ask(wanted, token, left_s)
            case Status.TAKEN:
                raise wanted.refusal(Status.TAKEN, holder=stored_text(values[2]))
            case Status.DIFFERS:
                raise wanted.refusal(Status.DIFFERS, stored=stored_text(values[0]))
            case status:
                raise wanted.refusal(status)

    def _release_again(self, wanted: Wanted) -> bool:
        """Release again the permits whose release Redis has forgotten in a failover; returns whether there were any.

        Called only after a request was refused or has slept for a while, so that a grant has no extra cost.
        """
        if not self._released:
            return False
        state = self.read(wanted.kind, wanted.name)
        held = () if state is None else state.holders
        forgotten = [token for one in held for token in one.tokens if token in self._released]
        for token in forgotten:
            self._run_release(self._release_call(wanted.kind, wanted.name, token, "released"))
        return bool(forgotten)

    @staticmethod
    def _granted(wanted: Wanted, token: str, fence: int | str, since_ms: int | str, resource: str) -> Grant:
        return Grant(wanted.kind, wanted.name, wanted.owner, token, int(fence), int(since_ms), resource)

    def sleep(self, tokens: Sequence[str], longest_s: float) -> None:
        """Sleep until one of these requests is granted a permit, at most for a second; the grant is then taken."""
        self._sleep(tokens, min(longest_s, _SLICE_S))

    def _sleep(self, tokens: Sequence[str], longest_s: float) -> Any:
        """The key and value of what has woken one of these requests; ``None`` for nothing."""
        slice_s = max(0.01, longest_s)
        try:
            return self._store.client.blpop([self._store.keys.wake(token) for token in tokens], timeout=slice_s)
        except (RedisError, OSError):
            # What is wrong, the next request says.
            threading.Event().wait(min(slice_s, _PAUSE_S))
            return None

    # -- releasing

    def release(self, grant: Grant, reason: str = "released") -> bool:
        """Give a permit back."""
        return self._release(grant.kind, grant.name, grant.token, reason)

    def withdraw(self, wanted: Wanted, token: str) -> None:
        """Leave the line, or release what was granted meanwhile."""
        self._release(wanted.kind, wanted.name, token, NOT_TAKEN)

    def _release_call(self, kind: Kind, name: str, token: str, reason: str) -> Call:
        keys = self._store.keys
        return commands.release(keys, kind, name, token, reason, self._callers.attempt(keys))

    def _release(self, kind: Kind, name: str, token: str, reason: str) -> bool:
        call = self._release_call(kind, name, token, reason)
        try:
            return again_if_lost(lambda: self._run_release(call))
        except BrokerUnavailable:
            # It is repeated beside what this thread releases next, the answer to which would take the place of its own.
            self._callers.give_up_name()
            self._late.add(call)
            return False
        finally:
            # Not before: another thread would release it again meanwhile, and this one would find nothing to release.
            self._released[token] = None
            if len(self._released) > _REMEMBERED:
                self._released.popitem(last=False)

    def _run_release(self, call: Call) -> bool:
        reply = self._run(call)
        if reply in (b"", b"+"):
            return bool(reply)
        fence, _, owner = stored_text(reply).partition(" ")
        _, kind, name, _, reason, _ = call[2]
        emit(events.LEASE_ENDED, kind=kind, lease=name, owner=owner, fence=int(fence), reason=reason)
        return True

    def hand_over(self, grant: Grant, candidate: str) -> bool:
        """End a term in favour of a candidate."""
        status, *_ = self._run(commands.hand_over(self._store.keys, grant.name, grant.token, candidate))
        if status == b"no candidate":
            raise NoCandidate(grant.name, candidate, self.candidates(grant.name))
        if status != b"ended":
            return False
        kind, owner, reason = Kind.ELECTION.value, grant.owner.id, "resigned"
        emit(events.LEASE_ENDED, kind=kind, lease=grant.name, owner=owner, fence=grant.fence, reason=reason)
        return True

    def candidates(self, name: str) -> Sequence[str]:
        """The owners that wait to lead."""
        keys = self._store.keys
        line = self._call("ZRANGE", keys.named_line(name), 0, _LISTED - 1)
        if not line:
            return ()
        tickets = self._call("HMGET", keys.named_waiting(name), *(member.partition(b" ")[2] for member in line))
        with self._store.reading(keys.named_waiting(name)):
            return tuple(json.loads(text)["o"] for text in tickets if text is not None)

    def is_held(self, grant: Grant) -> bool:
        """Whether a permit is still held."""
        return bool(self._run(commands.is_held(self._store.keys, grant.kind, grant.name, grant.token)))

    def check_in(self, name: str, resource: str, owner: Owner) -> bool:
        """Give a resource of a pool back."""
        keys = self._store.keys
        call = commands.check_in(keys, name, resource, owner.id, owner.entry, self._callers.attempt(keys))
        fence = again_if_lost(lambda: self._run(call))
        if not fence:
            return False
        kind, reason = Kind.POOL.value, "released"
        emit(events.LEASE_ENDED, kind=kind, lease=name, owner=owner.id, fence=int(fence), reason=reason)
        return True

    def on_death(self, incarnation: str, reason: str) -> bool:
        """Release what a dead incarnation or session held, as far as time allows; returns whether all is released.

        A death hook: may be called any number of times.
        """
        until, more = monotonic() + _ON_DEATH_S, 1
        while more:
            _, more = self._run(commands.holder_died(self._store.keys, incarnation, reason, _DEATH_BATCH))
            if monotonic() > until:
                break
        return not more

    # -- reading

    def read(self, kind: Kind, name: str) -> NameState | None:
        """One name."""
        _, *found = self._run(commands.read_names(self._store.keys, kind, name, skip=0, most=1))
        with self._store.reading(self._key(kind, name)):
            return _state(kind, found[0]) if found else None

    def _key(self, kind: Kind, name: str) -> str:
        return f"{self._store.keys.root}named:{kind}:{name}"

    def list(self, kind: Kind, limit: int) -> Sequence[NameState]:
        """The names of a kind that were used last."""
        states: list[NameState] = []
        skip = 0
        while skip >= 0 and len(states) < limit:
            skip, *found = self._run(commands.read_names(self._store.keys, kind, "", skip=skip, most=_PAGE))
            for one in found:
                key = self._key(kind, stored_text(one[0]))
                state = self._store.read_or_skip(key, lambda one=one: _state(kind, one))  # type: ignore[misc]
                states += [state] if state is not None else []
        return states[:limit]

    def next_term(self, name: str, after: Term | None, timeout_s: float) -> Term | None:
        """The next change after that term as it was seen."""
        until = monotonic() + timeout_s
        if after is not None:
            last = f"{after.number}-{int(after.ended)}"
        else:
            last, now = outlast(until, lambda: self._last(name))
            if now is not None and not now.ended:
                return now
        while True:
            if (found := self._term_after(name, last, until)) is not None:
                return found
            if monotonic() >= until:
                return None

    def _term_after(self, name: str, last: str, until: float) -> Term | None:
        key, client = self._store.keys.named_terms(name), self._store.client
        block_ms = max(1, to_ms(min(_SLICE_S, until - monotonic())))
        try:
            reply: Any = outlast(until, lambda: client.xread({key: last}, count=1, block=block_ms))
        except RedisError as error:
            raise self._store.failure(error) from error
        if not reply:
            return None
        entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
        return outlast(until, lambda: self._term(name, entries[0]))

    def last_term(self, name: str) -> Term | None:
        """The last term as it is now."""
        return self._last(name)[1]

    def unannounced_ends(self, name: str, number: int) -> Sequence[Term]:
        """The terms before this one that somebody took and that have ended since a term was last announced."""
        keys = self._store.keys
        announced = self._call("GET", keys.announced_term(name))
        first = "-" if announced is None else f"{stored_text(announced)}-0"
        found = self._call("XRANGE", keys.named_terms(name), first, f"{number - 1}-9")
        changes = (self._term(name, entry) for entry in found if not entry[0].endswith(b"-0"))
        return [term for term in changes if term.reason != NOT_TAKEN]

    def is_announced(self, name: str, number: int) -> bool:
        """Whether that term of a singleton is announced, so that its leader may claim."""
        announced = self._call("HGET", self._store.keys.named_election(name), "a")
        return announced is not None and int(announced) == number

    def announce(self, name: str, number: int, queue: str, messages: Sequence[str]) -> bool:
        """Put the messages that announce a term, and the ends of those before, before all others of the mailbox.

        Returns:
            Whether the term goes on.
        """
        keys, level = self._store.keys, self._store.levels[0]
        call = commands.announce_terms(keys, name, number, _ANNOUNCED_MS, queue, level, messages)
        return bool(self._run(call))

    def _last(self, name: str) -> tuple[str, Term | None]:
        """The id of the last entry about the election's terms, and the term as it is now."""
        found = self._newest(name)
        while found:
            term = self._term(name, found[0])
            if term.ended:
                return stored_text(found[0][0]), term
            state = self.read(Kind.ELECTION, name)
            if state is not None and any(holder.fence == term.number for holder in state.holders):
                return stored_text(found[0][0]), term
            read, found = found[0][0], self._newest(name)
            if found and found[0][0] == read:
                # The leader has ended, and no call has recorded it. If a newer entry has come meanwhile, read that.
                return stored_text(read), replace(term, reason="lost", ended_s=term.since_s)
        return "0-0", None

    def _newest(self, name: str) -> Any:
        return self._call("XREVRANGE", self._store.keys.named_terms(name), "+", "-", "COUNT", 1)

    def _term(self, name: str, entry: Any) -> Term:
        with self._store.reading(self._store.keys.named_terms(name)):
            return self._term_in(name, entry)

    def _term_in(self, name: str, entry: Any) -> Term:
        raw, fields = entry[0], _fields(entry)
        number, _, ended = stored_text(raw).partition("-")
        leader, at_s = stored_text(fields[b"leader"]), int(fields[b"at"]) / 1000
        if ended == "0":
            return Term(name, int(number), leader, at_s)
        first = self._call("XRANGE", self._store.keys.named_terms(name), f"{number}-0", f"{number}-0")
        since_s = int(_fields(first[0])[b"at"]) / 1000 if first else 0.0
        return Term(name, int(number), leader, since_s, stored_text(fields[b"reason"]), at_s)


def _fields(entry: Any) -> dict[bytes, bytes]:
    """The fields of a stream's entry; a raw connection and RESP2 return them as a list."""
    flat = entry[1]
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


def _state(kind: Kind, found: list[Any]) -> NameState:
    name, fence, permits, resources, waiting, holders = found
    read = sorted((_holder(json.loads(text)) for text in holders), key=lambda holder: holder.fence)
    names = tuple(json.loads(resources)) if kind is Kind.POOL else ()
    return NameState(kind, stored_text(name), int(fence), int(permits), names, int(waiting), tuple(read))


def _holder(known: dict[str, Any]) -> HeldPermit:
    owner, entry, fence, since_ms = known["o"], known["e"], int(known["f"]), int(known["s"])
    return HeldPermit(owner, entry, fence, since_ms, known["k"], known["r"], int(known["u"]), int(known["t"]))
