"""`broadcast`: one message to many agents, in few steps inside Redis."""

from __future__ import annotations

import json
import secrets
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from celery import Celery
from celery.utils import uuid
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.core.errors import BrokerUnavailable, InvalidPolicy, MessageTooLarge
from orchestrator.core.supervision import HEADER, Supervision
from orchestrator.sending.message_template import MessageTemplate, encode, write_template
from orchestrator.sending.publish import OutgoingMessage, headers_of, producer_of, queue_name, refusals, reprs_of
from orchestrator.transport.admission.publish_dedup import publishes_now
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.store import Store

#: Most recipients of one broadcast.
MAX_RECIPIENTS: Final = 50_000

#: Most recipients in one step, and most bytes of their messages unless a single one has more: no step keeps Redis from
#: others for more than some milliseconds.
STEP_RECIPIENTS: Final = 250
STEP_BYTES: Final = 1024 * 1024

#: Most of them where all or none are to be sent theirs, which is one step; and with a compensation: all of those may be
#: sent in the step that records one outcome.
MAX_AT_ONCE: Final = 500
MAX_BYTES_AT_ONCE: Final = 8 * 1024 * 1024

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
class BroadcastRequest:
    """A broadcast, addressed."""

    id: str
    strategy: Strategy
    parcels: Sequence[OutgoingMessage]
    #: For each parcel the one that makes good what it did, if somebody else's dies.
    compensations: Sequence[OutgoingMessage] = ()


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


def each_once(parcels: Sequence[OutgoingMessage]) -> None:
    """Check that nobody is to get two copies.

    Raises:
        InvalidPolicy: somebody is.
    """
    seen: set[str] = set()
    for parcel in parcels:
        if parcel.supervision.agent in seen:
            raise InvalidPolicy("recipients", parcel.supervision.agent, "each agent once")
        seen.add(parcel.supervision.agent)


def at_any_time(parcel: OutgoingMessage) -> OutgoingMessage:
    """A compensation: written now, but sent by Redis when there is cause for it, perhaps hours later."""
    if parcel.expires_s is None and parcel.supervision.deadline_at_s is None:
        return parcel
    return replace(parcel, expires_s=None, supervision=replace(parcel.supervision, deadline_at_s=None))


def publish_broadcast(app: Celery, store: Store, cast: BroadcastRequest, hidden: tuple[str, ...]) -> dict[int, Refusal]:
    """Publish every copy: in one script with ``all_or_nothing``, else in one for each :data:`STEP_RECIPIENTS`.

    Returns:
        By its place among the parcels, who was refused and why. With ``all_or_nothing``, if anybody was, nobody was
        sent anything.

    Raises:
        BrokerUnavailable: Redis did not take it, or no connection was free. Of a broadcast of several steps, the first
            recipients may have been sent theirs.
        MessageTooLarge: a copy is larger than a message may be. Nobody was sent anything.
        InvalidPolicy: with ``all_or_nothing`` or a compensation, there are more copies than one step takes.
    """
    copies, undo = _Forms(app, hidden), _Forms(app, hidden)
    try:
        with producer_of(app) as producer, open_batch(producer) as batch:
            numbers = [copies.number(parcel, batch) for parcel in cast.parcels]
            members = [_member(undo, parcel, batch) for parcel in cast.compensations]
    except BatchPublishError as error:
        raise BrokerUnavailable(store.url, error) from error
    nonce = secrets.token_hex(16)
    slots = {name: f'"@{nonce}:{name}@"' for name in ("id", "agent", "task", "queue")}
    texts = [copy.render(**slots) for copy in undo.copies]
    told = []
    for place, (parcel, number) in enumerate(zip(cast.parcels, numbers, strict=True)):
        queue, copy = queue_name(parcel), copies.copies[number]
        message = copy.render(encode(parcel.id), encode(parcel.supervision.agent), encode(parcel.task), encode(queue))
        told.append((queue, copy.step, message, parcel.id, members[place] if members else ""))
    _check_sizes(store, [*texts, *(message for _, _, message, *_ in told)])
    if texts:
        _check_at_once("compensate", len(told), len(told) * max(map(len, texts)))
    parts = _parts(cast, told)
    keys = [store.keys.leases, store.keys.group(cast.id) if members else "", publishes_now(store.keys)]
    refused: dict[int, Refusal] = {}
    first = 0
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        # Until the last part is there, the group has one pending copy that is none.
        ahead = (number == 0) - is_last
        wordings = [] if number else texts
        all_or_nothing = "1" if cast.strategy is Strategy.ALL_OR_NOTHING else "0"
        args: list[Any] = [f"{cast.id}:{number}", store.keys.root, all_or_nothing, _GROUP_MS, nonce, ahead]
        args += [len(wordings), *wordings, *chain.from_iterable(part)]
        _, refusals_here = _run(store, keys, args)
        refused |= {first + int(at) - 1: Refusal(why.decode()) for at, why, *_ in refusals_here}
        first += len(part)
    return refused


def _run(store: Store, keys: list[str], args: list[Any]) -> Any:
    try:
        return store.run("broadcast", keys, args)
    except BrokerUnavailable as error:
        if not isinstance(error.__cause__, RedisConnectionError | RedisTimeoutError):
            raise
        # Whether it was sent is unknown; asked again, the script says what it did.
        return store.run("broadcast", keys, args)


#: Of a copy: its queue, its step, the message, the delivery's id, and its place in the group.
_Told = tuple[str, str, str, str, str]


def _parts(cast: BroadcastRequest, told: Sequence[_Told]) -> list[list[_Told]]:
    """What goes in one step each."""
    if cast.strategy is Strategy.ALL_OR_NOTHING:
        _check_at_once(Strategy.ALL_OR_NOTHING, len(told), sum(len(message) for _, _, message, *_ in told))
        return [list(told)]
    parts: list[list[_Told]] = []
    size = 0
    for one in told:
        if not parts or len(parts[-1]) >= STEP_RECIPIENTS or size >= STEP_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += len(one[2])
    return parts


def _check_at_once(what: str, recipients: int, size: int) -> None:
    if recipients > MAX_AT_ONCE or (recipients > 1 and size > MAX_BYTES_AT_ONCE):
        raise InvalidPolicy(
            what,
            f"{recipients} recipients, {size} bytes",
            f"at most {MAX_AT_ONCE} recipients and {MAX_BYTES_AT_ONCE} bytes of messages, for they go in one step",
        )


def _check_sizes(store: Store, messages: Iterable[str]) -> None:
    limit = store.options.max_message_bytes
    size = max(map(len, messages))
    if limit and size > limit:
        raise MessageTooLarge(size, limit)


class _BroadcastTemplate:
    """A form in which all is filled but the recipient and the id."""

    def __init__(self, form: MessageTemplate, headers: Mapping[str, Any]) -> None:
        mark = secrets.token_hex(16)
        marked = {**headers, HEADER: {**headers[HEADER], "agent": mark}}
        self._own = encode(marked)[1:-1].split(f'"{mark}"')
        self._roots = form.values["root"] == form.values["id"]
        self._form = form.bind("id", "root", "task", "queue", "own")
        self.step = form.step

    def render(self, id: str, agent: str, task: str, queue: str) -> str:
        """Its text with these, each as JSON."""
        root = id if self._roots else self._form.values["root"]
        return self._form.render(id=id, root=root, task=task, queue=queue, own=agent.join(self._own))


class _Forms:
    """One form for each kind of copy: those that differ in more than their recipient need more than one."""

    def __init__(self, app: Celery, hidden: tuple[str, ...]) -> None:
        self.copies: list[_BroadcastTemplate] = []
        self._app = app
        self._hidden = hidden
        self._numbers: dict[Hashable, int] = {}

    def number(self, parcel: OutgoingMessage, batch: Any) -> int:
        """The place of a parcel's form among the copies.

        Raises:
            InvalidPolicy: its recipient cannot be told from others by the name of a queue.
        """
        kind = _kind(parcel)
        if kind not in self._numbers:
            reprs = reprs_of(parcel, self._hidden)
            with refusals(self._app, parcel.task), headers_of(parcel) as headers:
                form = write_template(self._app, parcel, headers, reprs, batch)
            if form is None:
                raise InvalidPolicy("recipient", parcel.supervision.agent, "an agent with one mailbox of its own")
            self._numbers[kind] = len(self.copies)
            self.copies.append(_BroadcastTemplate(form, headers))
        return self._numbers[kind]


#: What copies may differ in besides their recipient.
_DIFFERS: Final = tuple(f.name for f in fields(Supervision) if f.name not in ("agent", "metadata", "deadline_at_s"))


def _kind(parcel: OutgoingMessage) -> Hashable:
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


def _member(forms: _Forms, parcel: OutgoingMessage, batch: Any) -> str:
    number = forms.number(parcel, batch)
    step = forms.copies[number].step
    return json.dumps([number + 1, parcel.supervision.agent, parcel.task, queue_name(parcel), step, parcel.id])


def new_broadcast_request(
    strategy: Strategy, parcels: Sequence[OutgoingMessage], compensations: Sequence[OutgoingMessage] = ()
) -> BroadcastRequest:
    """A broadcast with an id of its own."""
    return BroadcastRequest(uuid(), strategy, parcels, compensations)


def named(cast: BroadcastRequest, refused: Mapping[int, Refusal]) -> dict[str, str]:
    """The recipients who were refused, by name."""
    return {cast.parcels[place].supervision.agent: why.value for place, why in refused.items()}
