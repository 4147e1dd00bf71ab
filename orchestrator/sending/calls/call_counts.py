"""Counts of the asks and calls of each mailbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.calls.call_budget import START
from orchestrator.core.stored_values import stored_counts, stored_text
from orchestrator.transport.store import Store


@dataclass(frozen=True, slots=True)
class CallCounts:
    """The asks that went to one mailbox since its counters began.

    A plain `call` or `ask` is a send, and in the ledger; to an agent with a bulkhead it is counted here, too.
    """

    queue: str
    asked: int = 0
    #: How they ended; the others are open.
    handled: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    timeout: int = 0
    given_up: int = 0
    #: Of those that were asked, how many were retries; and copies of requests that were sent besides.
    retried: int = 0
    hedged: int = 0
    #: Retries and hedges that the budget did not allow, and the rest of the budget, in hundredths of a retry.
    over_budget: int = 0
    budget: int = START
    #: Durable fallbacks that Redis has sent.
    fell_back: int = 0

    @property
    def open(self) -> int:
        """Asks that have not ended."""
        ended = (self.handled, self.dead, self.expired, self.cancelled, self.timeout, self.given_up)
        return self.asked - sum(ended)


def counts_of(queue: str, counters: Mapping[str, int]) -> CallCounts:
    """The counters of a mailbox; of an unknown name, none."""
    return CallCounts(queue, **{name: n for name, n in counters.items() if name in CallCounts.__slots__})


def read_call_counts(store: Store) -> list[CallCounts]:
    """The counts of every mailbox that was asked, by name.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    try:
        raw_queues: Any = store.client.smembers(store.keys.queues)
        queues = sorted(raw_queues)
        with store.client.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.hgetall(store.keys.calls(stored_text(queue)))
            read = pipe.execute()
    except RedisError as error:
        raise store.failure(error) from error
    return [
        counts_of(stored_text(queue), stored_counts(store.keys.calls(stored_text(queue)), counters))
        for queue, counters in zip(queues, read, strict=True)
        if counters
    ]
