"""The conservation ledger: every accepted message, and where it is now. Each mailbox' figures are of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.stored_values import stored_counts, stored_text
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

#: Mailboxes that one script looks at: a few milliseconds.
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One mailbox, or several added up.

    ``pending`` is counted from what lies in the mailbox, not computed from the other numbers; so ``lost`` can
    say something.
    """

    queue: str
    accepted: int = 0
    handled: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    ready: int = 0
    held: int = 0
    delayed: int = 0
    #: Those of the pending that wait in a mailbox on hold (see ``orchestrator supervise``).
    on_hold: int = 0
    retried: int = 0
    redelivered: int = 0
    restarted: int = 0
    duplicated: int = 0

    @property
    def pending(self) -> int:
        """Accepted and without an outcome: ready, held by a worker, or not yet due."""
        return self.ready + self.held + self.delayed

    @property
    def lost(self) -> int:
        """Accepted, and nowhere. Zero, or there is a defect."""
        return self.accepted - self.handled - self.dead - self.expired - self.cancelled - self.pending

    @property
    def balanced(self) -> bool:
        """``accepted = handled + dead + expired + cancelled + pending``."""
        return self.lost == 0


def total(rows: Iterable[LedgerRow], name: str = "total") -> LedgerRow:
    """All rows added up."""
    numbers = [f.name for f in fields(LedgerRow) if f.name != "queue"]
    rows = list(rows)
    return LedgerRow(name, **{number: sum(getattr(row, number) for row in rows) for number in numbers})


_COUNTERS = (
    "accepted",
    "handled",
    "dead",
    "expired",
    "cancelled",
    "retried",
    "redelivered",
    "restarted",
    "duplicated",
)


def mailboxes_of(rows: Iterable[LedgerRow]) -> list[LedgerRow]:
    """The rows of the user's mailboxes: without the monitor manager's, whose messages the library sends to itself."""
    return [row for row in rows if row.queue != HOUSEKEEPING_QUEUE]


def housekeeping_of(rows: Iterable[LedgerRow]) -> LedgerRow:
    """The row of the monitor manager's mailbox."""
    return next((row for row in rows if row.queue == HOUSEKEEPING_QUEUE), LedgerRow(HOUSEKEEPING_QUEUE))


def read_ledger(store: Store) -> list[LedgerRow]:
    """The ledger of every mailbox, by name; the monitor manager's too. The figures of one mailbox are of one moment.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    rows = []
    for raw_queue, ready, held, delayed, flat, is_on_hold in _depths(store):
        queue = stored_text(raw_queue)
        counted = stored_counts(store.keys.ledger(queue), zip(flat[::2], flat[1::2], strict=True))
        rows.append(
            LedgerRow(
                queue,
                ready=ready,
                held=held,
                delayed=delayed,
                on_hold=ready + delayed if is_on_hold else 0,
                **{name: counted.get(name, 0) for name in _COUNTERS},
            )
        )
    return sorted(rows, key=lambda row: row.queue)


def _depths(store: Store) -> Iterator[Any]:
    try:
        queues = sorted(store.client.smembers(store.keys.queues))
    except RedisError as error:
        raise store.failure(error) from error
    for at in range(0, len(queues), _AT_ONCE):
        names = queues[at : at + _AT_ONCE]
        yield from store.run(*commands.mailbox_depths(store.keys, store.levels, names))
