"""Barriers in Redis. Each change is one script; see ``lua/``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from celery import Celery

from orchestrator.coordination.barriers import commands
from orchestrator.coordination.barriers.backend import Arrived, Barriers, BarrierState, described, refusal
from orchestrator.coordination.late_releases import LateReleases
from orchestrator.coordination.script_runner import ScriptRunner
from orchestrator.core.coordination.barrier import Arriving, Ended, OnDeath, Reply, Status, Waiting
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.log import get_logger
from orchestrator.core.plural import counted
from orchestrator.core.stored_values import stored_text
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.messages.recorded_message import record_message
from orchestrator.transport.redis.commands import Call
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.redis.patience import outlast
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: For how long a call is repeated while Redis does not answer: repeated with its token, it counts once.
_PATIENCE_S: Final = 5.0

#: Seconds for which one call of :meth:`RedisBarriers.on_death` works.
_ON_DEATH_S: Final = 0.3

#: Scripts by which one sweep sends the messages of a generation.
_MOST_SENDS: Final = 50

#: Barriers that one script reads.
_PAGE: Final = 20


class RedisBarriers(Barriers):
    """Barriers in the Redis behind a store, which is opened when it is first needed.

    ``prepare`` declares the mailbox of a message; ``sleep`` blocks on what wakes a token.
    """

    def __init__(
        self,
        app: Celery,
        open_store: Callable[[], Store],
        hidden: tuple[str, ...],
        prepare: Callable[[OutgoingMessage], None],
        sleep: Callable[[Sequence[str], float], None],
    ) -> None:
        self._app = app
        self._open_store = open_store
        self._hidden = hidden
        self._prepare = prepare
        self._sleep = sleep
        self._run = ScriptRunner(open_store, __package__).run
        self._late = LateReleases(self._run)
        self._callers = Callers()
        #: Pairs of worker and barrier that a warning was logged for.
        self._warned: set[tuple[str, str]] = set()

    @property
    def _store(self) -> Store:
        return self._open_store()

    def _run_patiently(self, call: Call) -> Any:
        return outlast(monotonic() + _PATIENCE_S, lambda: self._run(call))

    # -- parties

    def arrive(
        self, name: str, request: Arriving, then: OutgoingMessage | None, if_broken: OutgoingMessage | None
    ) -> Reply:
        """Count a party."""
        texts = {"then": self._text("then", then), "if_broken": self._text("if_broken", if_broken)}
        recorded = Arriving(**{**_fields_of(request), **texts})
        reply = self._run_patiently(commands.arrive_at_barrier(self._store.keys, name, recorded))
        status = Status(stored_text(reply[0]))
        if status is Status.DIFFERS:
            parties, names, on_death = int(reply[1]), json.loads(reply[2]), stored_text(reply[3])
            raise refusal(name, request, status, f"{described(parties, names)}, on_death={on_death!r}")
        if status is Status.GONE:
            raise refusal(name, request, status)
        with self._store.reading(self._key(name)):
            return self._read_reply(name, reply)

    def _text(self, option: str, message: OutgoingMessage | None) -> str:
        if message is None:
            return ""
        self._prepare(message)
        recorded = record_message(self._app, message, self._hidden, option, "a message to an agent with one mailbox")
        keys = self._store.keys
        places = keys.stream(recorded.queue, recorded.level), keys.ledger(recorded.queue)
        return "\n".join((*places, recorded.agent, recorded.delivery, recorded.text))

    def _read_reply(self, name: str, reply: Sequence[Any]) -> Reply:
        status = Status(stored_text(reply[0]))
        generation = int(reply[1]) if len(reply) > 1 else 0
        match status:
            case Status.WAITING:
                return Reply(status, generation, int(reply[2]))
            case Status.ENDED:
                if int(reply[3]):
                    self.send_rest(name, generation)
                return Reply(status, generation, ended=_ended(json.loads(reply[2])))
            case Status.LEFT:
                return Reply(status, generation, reason=stored_text(reply[2]))
            case _:
                return Reply(status, generation)

    def wait(self, name: str, generation: int, party: str, waiting: Waiting) -> Reply:
        """Ask what has become of a generation."""
        reply = self._run(commands.wait_at_barrier(self._store.keys, name, generation, party, waiting))
        with self._store.reading(self._key(name)):
            read = self._read_reply(name, reply)
        if read.status is Status.WAITING and waiting.entry:
            parties, concurrency, running = reply[3:6]
            self._warn_of_slots(name, waiting.owner, parties, concurrency, running)
        return read

    def _warn_of_slots(self, name: str, worker: str, parties: int, concurrency: int, running: int) -> None:
        # The message that waits here may be among those that run.
        free = max(0, concurrency - max(0, running - 1))
        if concurrency and parties > free and (worker, name) not in self._warned:
            self._warned.add((worker, name))
            logger.warning(
                "barrier %s has %s, and worker %s has %s; parties that arrive with then= need none",
                *(name, counted(parties, "party", "parties"), worker, counted(free, "free slot")),
            )

    def sleep(self, name: str, token: str, longest_s: float) -> None:
        """Sleep until the generation ends, or for a second."""
        self._sleep([token], longest_s)

    def leave(self, name: str, generation: int, party: str, token: str, reason: str) -> Reply:
        """Break a generation."""
        call = commands.leave_barrier(self._store.keys, name, generation, party, token, reason)
        try:
            return self._read_reply(name, self._run(call))
        except BrokerUnavailable:
            self._late.add(call)
            raise

    def reset(self, name: str, generation: int) -> bool:
        """Let the next generation begin."""
        keys = self._store.keys
        call = commands.reset_barrier(keys, name, generation, self._callers.attempt(keys))
        was_reset, left = self._run_patiently(call)
        if left and generation:
            self.send_rest(name, generation)
        return bool(was_reset)

    # -- what sweeps call

    def time_came(self, name: str) -> None:
        """A generation's time may be over."""
        self._run(commands.end_barrier(self._store.keys, name))

    def send_rest(self, name: str, generation: int) -> None:
        """Send the messages that one script did not send; the next sweep sends those still left."""
        for _ in range(_MOST_SENDS):
            if not self._run(commands.send_barrier_messages(self._store.keys, name, generation)):
                return

    def rest_is_due(self, what: str) -> None:
        """Send messages that a sweep has found unsent; ``what`` is ``GENERATION:NAME``."""
        generation, _, name = what.partition(":")
        self.send_rest(name, int(generation))

    def on_death(self, incarnation: str, reason: str) -> bool:
        """Lose those who waited in a dead process, as far as time allows; returns whether all are lost.

        A death hook: may be called any number of times.
        """
        until = monotonic() + _ON_DEATH_S
        while self._run(commands.party_died(self._store.keys, incarnation, reason)):
            if monotonic() > until:
                return False
        return True

    # -- reading

    def read(self, name: str) -> BarrierState | None:
        """One barrier."""
        _, *found = self._run(commands.read_barriers(self._store.keys, name, skip=0, most=1))
        with self._store.reading(self._key(name)):
            return _state(found[0]) if found else None

    def _key(self, name: str) -> str:
        return f"{self._store.keys.root}barrier:{name}"

    def list(self, limit: int) -> Sequence[BarrierState]:
        """The barriers that were used last."""
        states: list[BarrierState] = []
        skip, looked_at = 0, _PAGE
        while looked_at == _PAGE and len(states) < limit:
            looked_at, *found = self._run(commands.read_barriers(self._store.keys, "", skip=skip, most=_PAGE))
            for one in found:
                key = self._key(stored_text(one[0]))
                state = self._store.read_or_skip(key, lambda one=one: _state(one))  # type: ignore[misc]
                states += [state] if state is not None else []
            skip += _PAGE
        return states[:limit]


def _fields_of(request: Arriving) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Arriving.__slots__}


def _ended(known: dict[str, Any]) -> Ended:
    # Lua writes an empty list as an empty object.
    arrived = tuple(known.get("a") or ())
    return Ended(known.get("r", ""), known.get("p", ""), arrived, int(known.get("m", 0)))


def _state(found: list[Any]) -> BarrierState:
    name, generation, parties, names, on_death, due_ms, why, arrived, gone, known = found
    present, left = [], []
    for party, since_ms, waiting, reason in known:
        if reason:
            left.append((stored_text(party), stored_text(reason)))
            continue
        owner = json.loads(waiting)["o"] if waiting else ""
        present.append(Arrived(stored_text(party), int(since_ms), owner))
    is_open = bool(due_ms) and not why
    return BarrierState(
        stored_text(name),
        int(generation),
        int(parties),
        tuple(json.loads(names)),
        OnDeath(stored_text(on_death)),
        int(due_ms) / 1000 if is_open else None,
        stored_text(why),
        int(arrived),
        max(0, int(parties) - int(arrived) - int(gone)),
        tuple(sorted(present, key=lambda one: one.party)),
        tuple(sorted(left)),
    )
