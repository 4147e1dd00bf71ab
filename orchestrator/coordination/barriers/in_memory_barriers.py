"""Barriers of eager mode: in this process' memory, by the rule alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from orchestrator.coordination.barriers.backend import Arrived, Barriers, BarrierState, described, refusal
from orchestrator.core.clock import now_ms
from orchestrator.core.coordination.barrier import Arriving, BarrierRecord, Reply, Status, Waiting
from orchestrator.core.coordination.lease import Owners
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events

#: The time of a generation may end while its parties wait, and nobody reports that.
_SLICE_S: Final = 0.1

Result = TypeVar("Result")


class InMemoryBarriers(Barriers):
    """Barriers of the agents and sessions of one process; those who wait are threads of it."""

    def __init__(self, owners: Owners, send: Callable[[OutgoingMessage], Any]) -> None:
        self._owners = owners
        self._send = send
        self._barriers: dict[str, BarrierRecord] = {}
        self._messages: dict[str, OutgoingMessage] = {}
        self._changed = threading.Condition(threading.RLock())

    def arrive(
        self, name: str, request: Arriving, then: OutgoingMessage | None, if_broken: OutgoingMessage | None
    ) -> Reply:
        """Count a party."""
        texts = {"then": then.id if then else "", "if_broken": if_broken.id if if_broken else ""}
        recorded = Arriving(**{**{field: getattr(request, field) for field in Arriving.__slots__}, **texts})
        with self._changed:
            for message in (then, if_broken):
                if message is not None:
                    self._messages[message.id] = message
            known = self._barriers.setdefault(name, BarrierRecord())
            reply = self._act(name, lambda: known.arrive(recorded, now_ms(), self._owners))
            if reply.status is Status.DIFFERS:
                stored = f"{described(known.parties, known.names)}, on_death={known.on_death.value!r}"
                raise refusal(name, request, reply.status, stored)
        if reply.status is Status.GONE:
            raise refusal(name, request, reply.status)
        self._send_outbox(name)
        return reply

    def _act(self, name: str, act: Callable[[], Result]) -> Result:
        """Change a barrier, and emit what has become of its generation."""
        known = self._barriers[name]
        before, gone = set(known.ended), dict(known.gone)
        parties = len(known.arrived)
        result = act()
        told: dict[str, Any] = {"barrier": name, "generation": known.generation}
        for party in known.gone.keys() - gone.keys():
            emit(events.BARRIER_SHRUNK, party=party, reason=known.gone[party], **told)
        for generation in known.ended.keys() - before:
            ended = known.ended[generation]
            told["generation"] = generation
            if ended.reason:
                emit(events.BARRIER_BROKEN, {"missing": ended.missing}, reason=ended.reason, party=ended.party, **told)
            else:
                emit(events.BARRIER_TRIPPED, {"parties": max(parties, known.parties)}, **told)
        self._changed.notify_all()
        return result

    def _send_outbox(self, name: str) -> None:
        """Send what generations that have ended left to be sent; in eager mode that handles it, so no lock is held."""
        with self._changed:
            known = self._barriers[name]
            ids, known.outbox = known.outbox, []
            messages = [self._messages.pop(one) for one in ids]
        for message in messages:
            self._send(message)

    def wait(self, name: str, generation: int, party: str, waiting: Waiting) -> Reply:
        """Ask what has become of a generation."""
        with self._changed:
            known = self._barriers[name]
            reply = self._act(name, lambda: known.wait(generation, party, waiting, now_ms(), self._owners))
        self._send_outbox(name)
        return reply

    def sleep(self, name: str, token: str, longest_s: float) -> None:
        """Sleep until a generation ends, or for a moment."""
        with self._changed:
            if self._barriers[name].due_ms:
                self._changed.wait(min(_SLICE_S, longest_s))

    def leave(self, name: str, generation: int, party: str, token: str, reason: str) -> Reply:
        """Break a generation."""
        with self._changed:
            known = self._barriers[name]
            reply = self._act(name, lambda: known.leave(generation, party, token, reason, now_ms(), self._owners))
        self._send_outbox(name)
        return reply

    def reset(self, name: str, generation: int) -> bool:
        """Let the next generation begin."""
        with self._changed:
            known = self._barriers.get(name)
            if known is None:
                return False
            was_reset = self._act(name, lambda: known.reset(generation, now_ms(), self._owners))
        if was_reset:
            emit(events.BARRIER_RESET, barrier=name, generation=known.generation)
        self._send_outbox(name)
        return bool(was_reset)

    def owner_died(self, owner: str, reason: str) -> None:
        """Lose those who waited in a dead agent."""
        with self._changed:
            names = list(self._barriers)
            for name in names:
                self._act(name, lambda known=self._barriers[name]: known.owner_died(owner, reason))  # type: ignore[misc]
        for name in names:
            self._send_outbox(name)

    # -- reading

    def read(self, name: str) -> BarrierState | None:
        """One barrier."""
        with self._changed:
            known = self._barriers.get(name)
            if known is None:
                return None
            self._act(name, lambda: known.time_came(now_ms()))
        self._send_outbox(name)
        return _state(name, known)

    def list(self, limit: int) -> Sequence[BarrierState]:
        """The barriers."""
        states = [self.read(name) for name in list(reversed(self._barriers))[:limit]]
        return [state for state in states if state is not None]


def _state(name: str, known: BarrierRecord) -> BarrierState:
    owners = {party: one.owner for party, one in known.waiting.items()}
    present = [Arrived(party, since_ms, owners.get(party, "")) for party, since_ms in sorted(known.arrived.items())]
    due_s = known.due_ms / 1000 if known.due_ms else None
    return BarrierState(
        name,
        known.generation,
        known.parties,
        known.names,
        known.on_death,
        due_s,
        known.broken,
        len(present),
        known.missing,
        tuple(present),
        tuple(sorted(known.gone.items())),
    )
