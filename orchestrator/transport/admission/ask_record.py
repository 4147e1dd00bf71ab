"""Asks on their way into Redis: the record that the script which accepts the request writes with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.keys import GROUP, Keys
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Attempt, Call


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
class AskRecord:
    """An ask, and the request by which it is accepted."""

    id: str
    delivery: str
    timeout_ms: int
    outcome_ms: int
    reply: MailReply
    more: Mapping[str, Any] = field(default_factory=dict)

    def call(self, keys: Keys, queue: str, level: str, message: str, attempt: Attempt) -> Call:
        """The script call that accepts the request."""
        fields = {
            "group": GROUP,
            "timeout_ms": self.timeout_ms,
            "outcome_ms": self.outcome_ms,
            **self.reply.fields(keys),
            **self.more,
        }
        return commands.ask(
            keys, queue, level, message, delivery=self.delivery, ask_id=self.id, fields=fields, attempt=attempt
        )


#: The ask whose request this thread publishes. Celery has no way to hand it through to the channel.
_publishing: ContextVar[AskRecord | None] = ContextVar("orchestrator_ask_record", default=None)


@contextmanager
def publishing(record: AskRecord | None) -> Iterator[None]:
    """Have the channel accept the request of an ask, if it is one, with the ask's record."""
    token = _publishing.set(record)
    try:
        yield
    finally:
        _publishing.reset(token)


def record_of(said: Hashable) -> AskRecord | None:
    """The ask whose request is published here, if this is it: by its mailbox, its delivery and more."""
    record = _publishing.get()
    return record if record is not None and isinstance(said, tuple) and record.delivery in said else None
