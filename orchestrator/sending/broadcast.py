"""`broadcast`: one message to many agents, in one step inside Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from celery import Celery
from celery.utils import uuid
from kombu.exceptions import BatchPublishError

from orchestrator.core.errors import BrokerUnavailable, InvalidPolicy
from orchestrator.core.supervision import Supervision
from orchestrator.sending.bulk import queue_name
from orchestrator.sending.mould import Mould, body_of, filled, mould, new_nonce, shown
from orchestrator.sending.publish import Parcel
from orchestrator.transport.store import Store

#: Most recipients of one broadcast: one step must not keep Redis from others for a second.
MAX_RECIPIENTS: Final = 50_000

#: The record of a broadcast with a compensation is kept at most so long: its copies should have ended by then.
_GROUP_MS: Final = 30 * 24 * 3600 * 1000


class Strategy(StrEnum):
    """When a broadcast counts as sent."""

    ALL_OR_NOTHING = "all_or_nothing"
    BEST_EFFORT = "best_effort"
    AT_LEAST_ONE = "at_least_one"


class Refusal(StrEnum):
    """Why a recipient was not sent its copy."""

    #: No living worker serves its mailbox.
    DOWN = "down"
    #: Its mailbox holds as many messages as it may.
    FULL = "full"
    #: Its circuit breaker is open.
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Cast:
    """A broadcast, addressed."""

    id: str
    strategy: Strategy
    parcels: Sequence[Parcel]
    #: For each parcel the one that makes good what it did, if somebody else's dies.
    compensations: Sequence[Parcel] = ()


def strategy_of(value: Strategy | str) -> Strategy:
    """The strategy of that name.

    Raises:
        InvalidPolicy: there is none.
    """
    try:
        return Strategy(value)
    except ValueError:
        raise InvalidPolicy("strategy", value, ", ".join(Strategy)) from None


def recipients_of(recipients: Iterable[Any]) -> list[Any]:
    """The recipients, each of whom gets one copy.

    Raises:
        InvalidPolicy: there are none, or too many.
    """
    if isinstance(recipients, str | bytes) or not isinstance(recipients, Iterable):
        raise InvalidPolicy("recipients", recipients, "a list of agents' names or Agent classes")
    listed = list(recipients)
    if not 1 <= len(listed) <= MAX_RECIPIENTS:
        raise InvalidPolicy("recipients", f"{len(listed)} of them", f"from 1 to {MAX_RECIPIENTS}")
    return listed


def each_once(parcels: Sequence[Parcel]) -> None:
    """Check that nobody is to get two copies.

    Raises:
        InvalidPolicy: somebody is.
    """
    seen: set[str] = set()
    for parcel in parcels:
        if parcel.supervision.agent in seen:
            raise InvalidPolicy("recipients", parcel.supervision.agent, "each agent once")
        seen.add(parcel.supervision.agent)


def publish_broadcast(app: Celery, store: Store, cast: Cast, hidden: tuple[str, ...]) -> dict[int, Refusal]:
    """Publish every copy in one script.

    Returns:
        By its place among the parcels, who was refused and why. With ``all_or_nothing``, if anybody was, nobody was
        sent anything.

    Raises:
        BrokerUnavailable: Redis did not take it.
    """
    nonce = new_nonce()
    try:
        with app.producer_pool.acquire(block=True) as producer, producer.batch() as batch:

            def make(parcel: Parcel) -> Mould:
                return mould(app, parcel, hidden, batch, nonce=nonce)

            copies = _Moulds(store, make)
            undo = _Moulds(store, make)
            calls = [copies.of(parcel) for parcel in cast.parcels]
            members = [_member(undo, parcel) for parcel in cast.compensations]
    except BatchPublishError as error:
        raise BrokerUnavailable(store.url, error) from error
    texts = [undo.text_with_body(number, hidden) for number in range(len(undo.moulds))]
    args: list[Any] = [
        store.keys.root,
        "1" if cast.strategy is Strategy.ALL_OR_NOTHING else "0",
        _GROUP_MS,
        nonce,
        len(texts),
        *texts,
    ]
    body = body_of(cast.parcels[0].args)
    argsrepr = shown(cast.parcels[0].args, hidden)
    for place, (parcel, (number, step)) in enumerate(zip(cast.parcels, calls, strict=True)):
        names = {
            "id": parcel.id,
            "tag": parcel.id,
            "body": body,
            "args": argsrepr,
            "agent": parcel.supervision.agent,
            "task": parcel.task,
            "queue": queue_name(parcel),
        }
        message = filled(copies.parts[number], names)
        args += (names["queue"], step, message, parcel.id, members[place] if members else "")
    group = store.keys.group(cast.id) if members else ""
    _, refused = store.run("broadcast", [store.keys.leases, group], args)
    return {int(number) - 1: Refusal(why.decode()) for number, why, *_ in refused}


class _Moulds:
    """One mould for each kind of copy: those that differ in more than their recipient need more than one."""

    def __init__(self, store: Store, make: Callable[[Parcel], Mould]) -> None:
        self.moulds: list[Mould] = []
        self.parts: list[list[str]] = []
        self._models: list[Parcel] = []
        self._store = store
        self._make = make
        self._numbers: dict[Hashable, tuple[int, str]] = {}

    def of(self, parcel: Parcel) -> tuple[int, str]:
        """The number of a parcel's mould, and the step of the mailbox it goes to."""
        kind = _kind(parcel)
        known = self._numbers.get(kind)
        if known is None:
            made = self._make(parcel)
            stream = made.call[1][0]
            step = stream.removeprefix(self._store.keys.step("", "").removesuffix(":")).split(":", 1)[0]
            known = self._numbers[kind] = len(self.moulds), step
            self.moulds.append(made)
            self.parts.append(made.parts())
            self._models.append(parcel)
        return known

    def text_with_body(self, number: int, hidden: tuple[str, ...]) -> str:
        """A mould's text with its body, and slots for the rest."""
        made, model = self.moulds[number], self._models[number]
        names = {name: f"@{made.nonce}:{name}@" for name in ("id", "agent", "task", "queue")}
        names |= {"tag": names["id"], "body": body_of(model.args), "args": shown(model.args, hidden)}
        return filled(self.parts[number], names)


#: What copies may differ in besides their recipient.
_DIFFERS: Final = tuple(f.name for f in fields(Supervision) if f.name not in ("agent", "metadata", "deadline_at_s"))


def _kind(parcel: Parcel) -> Hashable:
    supervision = parcel.supervision
    deadline_at_s = supervision.deadline_at_s
    # Each was addressed a little later than the one before.
    about = None if deadline_at_s is None else round(deadline_at_s)
    kind = (about, parcel.priority, parcel.expires_s, *[getattr(supervision, name) for name in _DIFFERS])
    try:
        hash(kind)
    except TypeError:
        return repr(kind)
    return kind


def _member(moulds: _Moulds, parcel: Parcel) -> str:
    number, step = moulds.of(parcel)
    return json.dumps([number + 1, parcel.supervision.agent, parcel.task, queue_name(parcel), step, parcel.id])


def new_cast(strategy: Strategy, parcels: Sequence[Parcel], compensations: Sequence[Parcel] = ()) -> Cast:
    """A broadcast with an id of its own."""
    return Cast(uuid(), strategy, parcels, compensations)


def named(cast: Cast, refused: Mapping[int, Refusal]) -> dict[str, str]:
    """The recipients who were refused, by name."""
    return {cast.parcels[place].supervision.agent: why.value for place, why in refused.items()}
