"""Asks on their way into Redis: the record that the script which accepts the request writes with it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from orchestrator.core.errors import NotAccepted
from orchestrator.core.keys import GROUP, Keys
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.call_connection import CallConnection
from orchestrator.transport.redis.commands import AskTexts, Attempt, Call

#: The kind of a record that is one more copy of an open ask's request.
HEDGE: Final = "hedge"


class HostGone(NotAccepted):
    """The incarnation that a request was meant for lives no more, and nothing was accepted. No error of a user's."""


class NotSent(NotAccepted):
    """A copy of a request was not sent: its ask has ended, or there is no budget. No error of a user's."""


@dataclass(frozen=True, slots=True)
class MailReply:
    """A reply that is a message in its asker's mailbox."""

    asker: str
    queue: str
    level: str
    #: The message's text before and after the outcome, which stands in it as JSON within a JSON string.
    before: str
    after: str

    def fields(self, keys: Keys) -> dict[str, Any]:
        """The fields of the ask's record that describe it."""
        return {
            "asker": self.asker,
            "stream": keys.stream(self.queue, self.level),
            "ledger": keys.ledger(self.queue),
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True, slots=True)
class InboxReply:
    """An outcome that is put into an inbox."""

    inbox: str
    label: str
    keep_ms: int

    def fields(self, keys: Keys) -> dict[str, Any]:
        """The fields of the ask's record that describe it."""
        return {"inbox": keys.inbox(self.inbox), "inbox_ms": self.keep_ms, "label": self.label}


@dataclass(frozen=True, slots=True)
class RecordedFallback:
    """A message that is sent unless the request is handled."""

    agent: str
    delivery: str
    queue: str
    level: str
    text: str

    def fields(self, keys: Keys) -> dict[str, Any]:
        """The fields of the ask's record that describe it."""
        return {
            "fallback": self.text,
            "fallback_stream": keys.stream(self.queue, self.level),
            "fallback_ledger": keys.ledger(self.queue),
            "fallback_agent": self.agent,
            "fallback_id": self.delivery,
        }


@dataclass(frozen=True, slots=True)
class AskRecord:
    """An ask, and the request by which it is accepted; or one more copy of an ask's request."""

    id: str
    delivery: str
    kind: str
    timeout_ms: int
    outcome_ms: int
    parts: Sequence[MailReply | InboxReply | RecordedFallback] = ()
    #: How many requests may be in flight (0 for any number), and for how many ms one more waits.
    in_flight: int = 0
    wait_ms: int = 0
    began_s: float = field(default_factory=monotonic, compare=False)

    def call(self, keys: Keys, queue: str, level: str, message: str, limit: int, attempt: Attempt) -> Call:
        """The script call that accepts the request."""
        fields: dict[str, Any] = {}
        if self.kind != HEDGE:
            fields = {"group": GROUP, "timeout_ms": self.timeout_ms, "outcome_ms": self.outcome_ms}
        for part in self.parts:
            fields |= part.fields(keys)
        return commands.ask(
            keys,
            queue,
            level,
            message,
            delivery=self.delivery,
            ask_id=self.id,
            kind=self.kind,
            fields=fields,
            attempt=attempt,
            in_flight=0 if self.kind == HEDGE else self.in_flight,
            wait_ms=self.wait_ms,
            left_ms=max(0, self.wait_ms - round(1000 * (monotonic() - self.began_s))),
        )


@dataclass(frozen=True, slots=True)
class SharedRecord:
    """The parts that the records of many asks have in common: all but the text of the reply."""

    timeout_ms: int
    outcome_ms: int
    asker: str
    #: The mailbox of the asker, and the level of it that replies go to.
    queue: str
    level: str

    def call(self, keys: Keys, queue: str, level: str, requests: Sequence[AskTexts], attempt: Attempt) -> Call:
        """The script call that accepts the requests, or none of them if the mailbox' flow control has to be asked."""
        reply = MailReply(self.asker, self.queue, self.level, "", "").fields(keys)
        fields = {"group": GROUP, "timeout_ms": self.timeout_ms, "outcome_ms": self.outcome_ms, **reply}
        del fields["before"], fields["after"]
        return commands.ask_many(
            keys, queue, level, requests, fields=fields, timeout_ms=self.timeout_ms, attempt=attempt
        )


@dataclass(frozen=True, slots=True)
class ToLiving:
    """A message that is accepted only while an incarnation lives which hosts its agent."""

    delivery: str
    host: str
    #: The connection on which its caller waits for the outcome, if it does.
    connection: CallConnection | None = None

    def call(self, keys: Keys, queue: str, level: str, message: str, limit: int, attempt: Attempt) -> Call:
        """The script call that accepts the message."""
        return commands.request(keys, queue, level, message, self.host, limit=limit, attempt=attempt)


#: The request that this thread publishes. Celery has no way to hand it through to the channel.
_publishing: ContextVar[AskRecord | ToLiving | None] = ContextVar("orchestrator_ask_record", default=None)


class publishing:  # noqa: N801 - used as a function is
    """A context in which the channel accepts a request with this record."""

    # Each call enters one: a generator would take three times as long.
    __slots__ = ("_record", "_token")

    def __init__(self, record: AskRecord | ToLiving) -> None:
        self._record = record

    def __enter__(self) -> None:
        self._token = _publishing.set(self._record)

    def __exit__(self, *error: object) -> None:
        _publishing.reset(self._token)


def record_of(said: Hashable) -> AskRecord | ToLiving | None:
    """The request that is published here, if this is it: by its mailbox, its delivery and more."""
    record = _publishing.get()
    return record if record is not None and isinstance(said, tuple) and record.delivery in said else None
