"""`orchestrator.barrier(name, parties=n)`: parties wait until all of them have arrived."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from celery import Celery

from orchestrator.coordination.barriers.backend import Barriers, BarrierState, broken
from orchestrator.coordination.checks import checked_name
from orchestrator.coordination.not_copied import NotCopied
from orchestrator.coordination.not_entered import NotEntered
from orchestrator.core.checks.numbers import check_number, check_whole_number, is_whole_number
from orchestrator.core.clock import to_ms
from orchestrator.core.coordination.barrier import Arriving, OnDeath, Reply, Status, Waiting
from orchestrator.core.errors import BarrierBroken, BrokerUnavailable, InvalidPolicy, NoOwner, OwnerGone
from orchestrator.core.message import Message
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.sending.address import Directory
from orchestrator.sending.messages.agent_messages import build_agent_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import SendOptions, check_options
from orchestrator.transport.redis.patience import outlast
from orchestrator.worker.execution.owner import Owner, checked_wait

#: Parties of one barrier.
MOST_PARTIES: Final = 1000

#: Longest time of a generation: a week. Those who wait in a process can do so for a day.
LONGEST_TIMEOUT_S: Final = 7 * 86_400

#: Longest sleep of one who waits: what wakes it may be lost.
_SLICE_S: Final = 1.0

#: The messages of parties are sends without options of their own.
_OPTIONS: Final = check_options(SendOptions())


@dataclass(frozen=True, slots=True)
class BarrierPolicy:
    """The parties, on which all users of a barrier must agree, and how long a generation may take."""

    parties: int
    names: tuple[str, ...]
    on_death: OnDeath
    timeout_s: float


def checked_policy(parties: object, timeout_s: object, on_death: object) -> BarrierPolicy:
    """The policy of a barrier.

    Raises:
        InvalidPolicy: a value is not allowed.
    """
    names: tuple[str, ...] = ()
    if isinstance(parties, Iterable) and not isinstance(parties, str | bytes):
        names = tuple(sorted(checked_name(name, "party") for name in parties))
        if not 1 <= len(names) <= MOST_PARTIES or len(set(names)) < len(names):
            raise InvalidPolicy("parties", list(names[:20]), f"1 to {MOST_PARTIES} different names, or their number")
        count = len(names)
    elif is_whole_number(parties, 1, MOST_PARTIES):
        count = parties
    else:
        raise InvalidPolicy("parties", parties, f"a whole number from 1 to {MOST_PARTIES}, or a list of their names")
    seconds = check_number("timeout_s", timeout_s, 0.001, LONGEST_TIMEOUT_S)
    if not isinstance(on_death, str) or on_death not in list(OnDeath):
        raise InvalidPolicy("on_death", on_death, "'break' or 'shrink'")
    return BarrierPolicy(count, names, OnDeath(str(on_death)), seconds)


@dataclass(frozen=True, slots=True)
class BarrierContext:
    """The surroundings of a barrier: the app that it is used in."""

    barriers: Callable[[], Barriers]
    #: The owner of an arrival here; raises ``NoOwner``.
    owner: Callable[[str], Owner]
    app: Celery
    directory: Directory


@named_arguments
class Barrier(NotEntered):
    """A barrier of one name: its generations trip one after the other, each when all parties have arrived."""

    def __init__(self, context: BarrierContext, name: str, policy: BarrierPolicy) -> None:
        self.name = name
        self.policy = policy
        self._context = context

    def arrive(
        self,
        party: str | None = None,
        *,
        then: Message | None = None,
        if_broken: Message | None = None,
        to: Any = None,
    ) -> Arrival:
        """Arrive; the last party of a generation trips it. A party counts once in a generation.

        Without ``then``, call :meth:`Arrival.wait` of what this returns, or go on. With it nothing waits, and no slot
        is held: Redis sends ``then`` to the agent ``to`` when the generation trips, or ``if_broken`` when it breaks.

        Args:
            party: the party's name; by default the id of the delivery that is handled here, so that a delivery which
                is attempted again is not counted twice, or the session's.
            then: the message that is sent when the generation trips.
            if_broken: the message that is sent when it breaks.
            to: the agent that gets them; by default the one whose handler runs here.

        Raises:
            NoOwner: no handler runs here and no session is open.
            OwnerGone: this process was declared dead.
            BarrierBroken: the barrier is broken, and was not reset since; or it broke by this call.
            InvalidPolicy: an argument has a value that is not allowed, or others use the name with other parties.
            UnknownAgent, UnknownMessage: ``to`` does not handle the message.
            BrokerUnavailable: Redis was away.
        """
        owner = self._context.owner("place at a barrier")
        delivery = owner.delivery
        name = checked_name(delivery or owner.id if party is None else party, "party")
        if self.policy.names and name not in self.policy.names:
            raise InvalidPolicy("party", name, f"one of {', '.join(self.policy.names[:20])}")
        messages = [self._message(option, one, to, owner) for option, one in (("then", then), ("if_broken", if_broken))]
        if to is not None and not any(messages):
            raise InvalidPolicy("to", to, "together with then or if_broken")
        token = uuid4().hex
        request = Arriving(
            name,
            _caller(self.name, name, delivery) if delivery else token,
            token,
            owner.id,
            owner.entry,
            self.policy.parties,
            self.policy.names,
            self.policy.on_death,
            max(1, to_ms(self.policy.timeout_s)),
        )
        reply = self._context.barriers().arrive(self.name, request, *messages)
        arrival = Arrival(self, self._context.barriers(), request, reply, leaves_message=any(messages))
        arrival.raise_if_broken(reply)
        return arrival

    def _message(self, option: str, message: Message | None, to: Any, owner: Owner) -> OutgoingMessage | None:
        if message is None:
            return None
        if not isinstance(message, Message):
            raise InvalidPolicy(option, message, "an instance of a Message class")
        recipient = to if to is not None else owner.agent
        if not recipient:
            raise InvalidPolicy(
                "to", to, f"the agent that {option} is sent to; it may be left out in an agent's handler only"
            )
        outgoing = build_agent_message(self._context.directory, recipient, message, _OPTIONS)
        # It is sent perhaps much later.
        return replace(outgoing, expires_s=None, supervision=replace(outgoing.supervision, deadline_at_s=None))

    def state(self) -> BarrierState | None:
        """The parties that have arrived, and the number of missing ones; ``None`` if it was not used for a week."""
        return self._context.barriers().read(self.name)

    def reset(self, generation: int | None = None) -> bool:
        """Let the next generation begin: the barrier is no longer broken, and a generation in progress breaks.

        Args:
            generation: reset only this generation, such as that of a :class:`BarrierBroken`; of several calls, the
                first one counts. By default the current generation, and the next arrival may name other parties.

        Returns:
            Whether it was broken, or a generation went on, or (without ``generation``) its parties were known.

        Raises:
            InvalidPolicy: ``generation`` is no number.
            BrokerUnavailable: Redis was away.
        """
        checked = 0 if generation is None else check_whole_number("generation", generation, 1, 2**53)
        return self._context.barriers().reset(self.name, checked)

    def _how_to_enter(self) -> str:
        return f"orchestrator.barrier({self.name!r}, …).arrive().wait(timeout_s), without a with"

    def __repr__(self) -> str:
        return f"<Barrier {self.name!r} parties={self.policy.parties}>"


@named_arguments
class Arrival(NotCopied):
    """A party that has arrived."""

    def __init__(
        self, barrier: Barrier, barriers: Barriers, request: Arriving, reply: Reply, *, leaves_message: bool
    ) -> None:
        self._barrier = barrier
        self._barriers = barriers
        self._request = request
        self._pid = os.getpid()
        self._leaves_message = leaves_message
        #: The name under which it was counted.
        self.party = request.party
        #: The number of the generation; grows from each to the next, also where Redis has lost its data.
        self.generation = reply.generation
        #: Whether this arrival has tripped the generation, or it had tripped before.
        self.tripped = reply.status is Status.ENDED

    def wait(self, timeout_s: float) -> int:
        """Wait until all parties have arrived; returns the number of the generation.

        It occupies the thread, and in a worker a slot. If the time is over or the thread is interrupted, the
        generation breaks for all, as with :class:`threading.Barrier`.

        Raises:
            BarrierBroken: the generation is broken, and why: ``timeout``, ``wait timeout``, ``interrupted``, ``reset``,
                ``lost`` (Redis has lost it), ``attempt ended``, or why a party that waited has died.
            OwnerGone: this process was declared dead.
            NoOwner: this process is a fork of the one that arrived.
            InvalidPolicy: ``timeout_s`` is not a number from 0 to a day, or the arrival has left a message instead.
            BrokerUnavailable: Redis was away at the end.
        """
        until = monotonic() + checked_wait(timeout_s)
        if self._pid != os.getpid():
            raise NoOwner("place at a barrier", forked=True)
        if self._leaves_message:
            raise InvalidPolicy("wait", self.party, "for an arrival without then and if_broken")
        if self.tripped:
            return self.generation
        waiting = Waiting(self._request.owner, self._request.entry, uuid4().hex)
        try:
            while True:
                reply = outlast(until, lambda: self._ask(waiting))
                if self._has_tripped(reply):
                    return self.generation
                left_s = until - monotonic()
                if left_s <= 0:
                    break
                self._barriers.sleep(
                    self._barrier.name, waiting.token, min(left_s, _SLICE_S, reply.left_ms / 1000 + 0.01)
                )
        except (BarrierBroken, OwnerGone):
            raise
        except BaseException:
            with suppress(BrokerUnavailable):
                self._leave(waiting, "interrupted")
            raise
        if self._has_tripped(self._leave(waiting, "wait timeout")):
            return self.generation
        raise BarrierBroken(self._barrier.name, self.generation, "wait timeout", self.party, (), 0, ())

    def _ask(self, waiting: Waiting) -> Reply:
        return self._barriers.wait(self._barrier.name, self.generation, self.party, waiting)

    def _leave(self, waiting: Waiting, reason: str) -> Reply:
        return self._barriers.leave(self._barrier.name, self.generation, self.party, waiting.token, reason)

    def _has_tripped(self, reply: Reply) -> bool:
        self.raise_if_broken(reply)
        self.tripped = reply.status is Status.ENDED
        return self.tripped

    def raise_if_broken(self, reply: Reply) -> None:
        """Raise what the reply to a call says.

        Raises:
            BarrierBroken, OwnerGone: see :meth:`wait`.
        """
        name, policy = self._barrier.name, self._barrier.policy
        if reply.status is Status.GONE:
            raise OwnerGone(self._request.owner)
        if reply.ended is not None and reply.ended.reason:
            raise broken(name, reply.generation, policy.names, reply.ended)
        if reply.status in (Status.LOST, Status.LEFT):
            raise BarrierBroken(name, self.generation, reply.reason or "lost", self.party, (), 0, ())

    def __repr__(self) -> str:
        return f"<Arrival of {self.party!r} at {self._barrier.name!r} generation={self.generation}>"


def _caller(name: str, party: str, delivery: str) -> str:
    """The party that arrives, in whichever attempt: one delivery may arrive as several parties."""
    return hashlib.sha1(json.dumps([name, party, delivery]).encode(), usedforsecurity=False).hexdigest()
