"""The state of mailboxes: what waits in them, for how long, their bound and breaker, and who serves them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redis.exceptions import RedisError

from orchestrator.core.breaker import Phase
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.registry.registry import IncarnationEntry
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

#: Mailboxes that one script looks at: a few milliseconds.
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class MailboxState:
    """One mailbox, as of now."""

    queue: str
    #: Due and claimed by nobody.
    waiting: int = 0
    #: Not yet due.
    delayed: int = 0
    #: Claimed by a worker and not settled.
    held: int = 0
    #: Seconds since the oldest waiting message came into the mailbox, or fell due. ``None`` if nothing waits, or it is
    #: too large to be read for that.
    oldest_waiting_s: float | None = None
    #: The mailbox' bound and what becomes of messages beyond it; ``None`` and empty if it has none.
    limit: int | None = None
    overflow: str = ""
    #: ``None`` if it has no circuit breaker.
    breaker: Phase | None = None
    #: Seconds until an open breaker lets a probe through.
    breaker_open_for_s: float = 0.0
    #: The living incarnations that consume from it.
    served_by: tuple[str, ...] = ()

    @property
    def unserved(self) -> bool:
        """Whether it has mail and nobody consumes from it."""
        return not self.served_by and self.waiting + self.delayed > 0


def read_mailboxes(store: Store, incarnations: Iterable[IncarnationEntry]) -> list[MailboxState]:
    """The state of every mailbox, by name.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    served: dict[str, list[str]] = {}
    for incarnation in incarnations:
        for queue in incarnation.queues:
            served.setdefault(queue, []).append(incarnation.id)
    try:
        queues = sorted(store.client.smembers(store.keys.queues))
    except RedisError as error:
        raise BrokerUnavailable(store.url, error) from error
    states = []
    at = 0
    while at < len(queues):
        answer = store.run(*commands.mailbox_states(store.keys, store.steps, queues[at : at + _AT_ONCE]))
        # Where messages are large it looks at fewer.
        at += len(answer)
        for raw, waiting, delayed, held, oldest_ms, limit, overflow, phase, open_ms in answer:
            queue = raw.decode("utf-8", "replace")
            states.append(
                MailboxState(
                    queue=queue,
                    waiting=waiting,
                    delayed=delayed,
                    held=held,
                    oldest_waiting_s=None if oldest_ms < 0 else oldest_ms / 1000,
                    limit=int(limit) if limit else None,
                    overflow=overflow.decode(),
                    breaker=Phase(phase.decode()) if phase else None,
                    breaker_open_for_s=open_ms / 1000,
                    served_by=tuple(served.get(queue, ())),
                )
            )
    return states
