"""`broadcast`: one message to many agents, in few steps inside Redis."""

from __future__ import annotations

import json
import secrets
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

from celery import Celery
from celery.utils import uuid

from orchestrator.core.checks.choices import check_choice
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import InvalidPolicy, MessageTooLarge
from orchestrator.sending.messages.message_template import MessageTemplate, around_agent, write_template
from orchestrator.sending.messages.message_texts import reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import headers_of, library_errors, producer_of
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.lost_answers import again_if_lost, publishes_now
from orchestrator.transport.store import Store

#: Most recipients of one broadcast.
MAX_RECIPIENTS: Final = 50_000

#: Most recipients in one step, and most bytes of their messages unless a single one has more, so that no step holds
#: Redis for more than some milliseconds.
STEP_RECIPIENTS: Final = 250
STEP_BYTES: Final = 1024 * 1024

#: Most recipients, and most bytes, with ``all_or_nothing``, which is one step, and with a compensation: one step may
#: record an outcome and send all compensations.
MAX_AT_ONCE: Final = 500
MAX_BYTES_AT_ONCE: Final = 8 * 1024 * 1024

#: How long the record of a broadcast with a compensation is kept; its copies should have ended by then.
_GROUP_MS: Final = 30 * 24 * 3600 * 1000


class Strategy(StrEnum):
    """The condition under which a broadcast counts as sent."""

    ALL_OR_NOTHING = "all_or_nothing"
    BEST_EFFORT = "best_effort"
    AT_LEAST_ONE = "at_least_one"


class Refusal(StrEnum):
    """The reason why a recipient's copy was not sent."""

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
    copies: Sequence[OutgoingMessage]
    #: For each copy the message that undoes what it did, if the copy of another recipient dies.
    compensations: Sequence[OutgoingMessage] = ()


def strategy_of(value: Strategy | str) -> Strategy:
    """The strategy of that name.

    Raises:
        InvalidPolicy: there is none.
    """
    return check_choice("strategy", Strategy, value)


def recipients_of(recipients: Iterable[Any]) -> list[Any]:
    """The recipients of a broadcast, as a list.

    Raises:
        InvalidPolicy: there are none, or too many.
    """
    if isinstance(recipients, str | bytes) or not isinstance(recipients, Iterable):
        raise InvalidPolicy("recipients", recipients, "a list of agents' names or Agent classes")
    listed = list(recipients)
    if not 1 <= len(listed) <= MAX_RECIPIENTS:
        raise InvalidPolicy("recipients", f"{len(listed)} of them", f"from 1 to {MAX_RECIPIENTS}")
    return listed


def refuse_duplicates(copies: Sequence[OutgoingMessage]) -> None:
    """Check that each recipient is named once.

    Raises:
        InvalidPolicy: one is named twice.
    """
    seen: set[str] = set()
    for copy in copies:
        if copy.supervision.agent in seen:
            raise InvalidPolicy("recipients", copy.supervision.agent, "each agent once")
        seen.add(copy.supervision.agent)


def without_time_limits(message: OutgoingMessage) -> OutgoingMessage:
    """A compensation without expiry and deadline: Redis sends it when a copy has died, perhaps hours later."""
    if message.expires_s is None and message.supervision.deadline_at_s is None:
        return message
    return replace(message, expires_s=None, supervision=replace(message.supervision, deadline_at_s=None))


def publish_broadcast(
    app: Celery, store: Store, request: BroadcastRequest, hidden: tuple[str, ...]
) -> dict[int, Refusal]:
    """Publish every copy: in one script with ``all_or_nothing``, else in one for each :data:`STEP_RECIPIENTS`.

    Returns:
        By place among the copies, why a copy was refused. With ``all_or_nothing``, one refused copy means that none
        was sent.

    Raises:
        BrokerUnavailable: Redis did not accept it, or no connection was free. Of a broadcast of several steps, the
            copies for the first recipients may have been sent.
        MessageTooLarge: a copy is larger than a message may be. Nobody was sent anything.
        InvalidPolicy: with ``all_or_nothing`` or a compensation, there are more copies than one step takes.
    """
    templates, undo = CopyTemplates(app, hidden), CopyTemplates(app, hidden)
    try:
        with producer_of(app) as producer, open_batch(producer) as batch:
            numbers = [templates.number(copy, batch) for copy in request.copies]
            members = [_member(undo, message, batch) for message in request.compensations]
    except BatchPublishError as error:
        raise store.failure(error) from error
    nonce = secrets.token_hex(16)
    slots = {name: f'"@{nonce}:{name}@"' for name in ("id", "agent", "task", "queue")}
    texts = [template.render(**slots) for template in undo.templates]
    rows: list[_Row] = []
    for place, (copy, number) in enumerate(zip(request.copies, numbers, strict=True)):
        queue, template = queue_name(copy), templates.templates[number]
        text = template.render(encode(copy.id), encode(copy.supervision.agent), encode(copy.task), encode(queue))
        rows.append((queue, template.level, text, copy.id, members[place] if members else ""))
    check_sizes(store, [*texts, *(text for _, _, text, *_ in rows)])
    if texts:
        _check_at_once("compensate", len(rows), len(rows) * max(map(len, texts)))
    parts = _parts(request, rows)
    publishes = publishes_now(store.keys)
    refused: dict[int, Refusal] = {}
    first = 0
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        # Until the last part is sent, the group counts one pending copy more than it has, so that it stays open.
        ahead = (number == 0) - is_last
        call = commands.broadcast(
            store.keys,
            f"{request.id}:{number}",
            part,
            publishes=publishes,
            group=store.keys.group(request.id) if members else "",
            group_ms=_GROUP_MS,
            all_or_nothing=request.strategy is Strategy.ALL_OR_NOTHING,
            nonce=nonce,
            ahead=ahead,
            texts=[] if number else texts,
        )
        # Repeated, it returns what it did the first time.
        _, refusals_here = again_if_lost(lambda call=call: store.run(*call))  # type: ignore[misc]
        refused |= {first + int(at) - 1: Refusal(why.decode()) for at, why, *_ in refusals_here}
        first += len(part)
    return refused


#: Of a copy: its queue, its step, the message, the delivery's id, and its place in the group.
_Row = tuple[str, str, str, str, str]


def _parts(request: BroadcastRequest, rows: Sequence[_Row]) -> list[list[_Row]]:
    """The rows of each step."""
    if request.strategy is Strategy.ALL_OR_NOTHING:
        _check_at_once(Strategy.ALL_OR_NOTHING, len(rows), sum(len(text) for _, _, text, *_ in rows))
        return [list(rows)]
    parts: list[list[_Row]] = []
    size = 0
    for one in rows:
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
            f"at most {MAX_AT_ONCE} recipients and {MAX_BYTES_AT_ONCE} bytes of messages, which are sent in one step",
        )


def check_sizes(store: Store, messages: Iterable[str]) -> None:
    """Check that no message is larger than it may be.

    Raises:
        MessageTooLarge: one is.
    """
    limit = store.options.max_message_bytes
    size = max(map(len, messages))
    if limit and size > limit:
        raise MessageTooLarge(size, limit)


class _BroadcastTemplate:
    """A message template in which only the recipient and the id are missing."""

    def __init__(self, template: MessageTemplate, headers: Mapping[str, Any]) -> None:
        self._own = around_agent(headers)
        self._roots = template.values["root"] == template.values["id"]
        self._template = template.bind("id", "root", "task", "queue", "own")
        self.level = template.level

    def render(self, id: str, agent: str, task: str, queue: str) -> str:
        """The message's text; each argument is JSON."""
        root = id if self._roots else self._template.values["root"]
        return self._template.render(id=id, root=root, task=task, queue=queue, own=agent.join(self._own))


class CopyTemplates:
    """One template for each kind of copy; copies that differ only in their recipient share one."""

    def __init__(self, app: Celery, hidden: tuple[str, ...]) -> None:
        self.templates: list[_BroadcastTemplate] = []
        self._app = app
        self._hidden = hidden
        self._numbers: dict[Hashable, int] = {}

    def number(self, message: OutgoingMessage, batch: Any) -> int:
        """The place of a message's template in ``templates``; it is written if it is the first of its kind.

        Raises:
            InvalidPolicy: the recipient has no mailbox of its own.
        """
        kind = kind_of(message)
        if kind not in self._numbers:
            reprs = reprs_of(message, self._hidden)
            with library_errors(self._app, message.task), headers_of(message) as headers:
                template = write_template(self._app, message, headers, reprs, batch)
            if template is None:
                raise InvalidPolicy("recipient", message.supervision.agent, "an agent with one mailbox of its own")
            self._numbers[kind] = len(self.templates)
            self.templates.append(_BroadcastTemplate(template, headers))
        return self._numbers[kind]


#: What copies may differ in besides their recipient.
_DIFFERS: Final = tuple(f.name for f in fields(Supervision) if f.name not in ("agent", "metadata", "deadline_at_s"))


def kind_of(message: OutgoingMessage) -> Hashable:
    """The same for messages, sent at once, that differ in their recipient, their arguments and their id alone."""
    supervision = message.supervision
    deadline_at_s = supervision.deadline_at_s
    # Each copy was built a little later than the one before.
    about = None if deadline_at_s is None else round(deadline_at_s)
    kind = (about, message.priority, message.expires_s, *[getattr(supervision, name) for name in _DIFFERS])
    try:
        hash(kind)
    except TypeError:
        return repr(kind)
    return kind


def _member(templates: CopyTemplates, message: OutgoingMessage, batch: Any) -> str:
    number = templates.number(message, batch)
    level = templates.templates[number].level
    return json.dumps([number + 1, message.supervision.agent, message.task, queue_name(message), level, message.id])


def new_broadcast_request(
    strategy: Strategy, copies: Sequence[OutgoingMessage], compensations: Sequence[OutgoingMessage] = ()
) -> BroadcastRequest:
    """A broadcast with an id of its own."""
    return BroadcastRequest(uuid(), strategy, copies, compensations)


def refused_by_name(request: BroadcastRequest, refused: Mapping[int, Refusal]) -> dict[str, str]:
    """The reason why a recipient was refused, by the recipient's name."""
    return {request.copies[place].supervision.agent: why.value for place, why in refused.items()}
