"""Reads the counts of mailboxes in Redis."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.registry.mailboxes import MailboxState, read_mailboxes
from orchestrator.registry.registry import Registry
from orchestrator.sending.calls.call_counts import CallCounts, read_call_counts
from orchestrator.sending.ledger import LedgerRow, housekeeping_of, mailboxes_of, read_ledger
from orchestrator.transport.redis.dataset import DatasetRecord
from orchestrator.transport.store import Store


class RedisStatistics:
    """The counts of one app's Redis. Each method raises :class:`BrokerUnavailable` if Redis is away."""

    def __init__(self, store: Callable[[], Store], registry: Callable[[], Registry]) -> None:
        self._store = store
        self._registry = registry

    def ledger(self) -> list[LedgerRow]:
        """The ledger of every mailbox but the monitor manager's."""
        return mailboxes_of(read_ledger(self._store()))

    def housekeeping_ledger(self) -> LedgerRow:
        """The ledger of the monitor manager's mailbox."""
        return housekeeping_of(read_ledger(self._store()))

    def call_counts(self) -> list[CallCounts]:
        """The counts of the asks of each mailbox."""
        return read_call_counts(self._store())

    def dataset(self) -> DatasetRecord | None:
        """The time when counting began, and known losses; ``None`` before any worker."""
        return self._store().dataset()

    def mailboxes(self) -> list[MailboxState]:
        """Every mailbox as it is now."""
        return read_mailboxes(self._store(), self._registry().incarnations())
