"""The counts of eager mode: those of ended deliveries, as nothing waits there."""

from __future__ import annotations

from orchestrator.eager.asks import EagerAsks
from orchestrator.eager.records import EagerRecords
from orchestrator.registry.mailboxes import MailboxState
from orchestrator.sending.calls.call_counts import CallCounts
from orchestrator.sending.ledger import LedgerRow, housekeeping_of


class EagerStatistics:
    """The counts of one process; :class:`orchestrator.sending.redis_statistics.RedisStatistics` has those of Redis."""

    def __init__(self, records: EagerRecords, asks: EagerAsks) -> None:
        self._records = records
        self._asks = asks

    def ledger(self) -> list[LedgerRow]:
        """The ledger of every mailbox."""
        return self._records.ledger()

    def housekeeping_ledger(self) -> LedgerRow:
        """An empty row: eager mode has no monitor manager."""
        return housekeeping_of([])

    def call_counts(self) -> list[CallCounts]:
        """The counts of the asks of each agent."""
        return self._asks.counts()

    def dataset(self) -> None:
        """``None``: nothing counts in Redis."""

    def mailboxes(self) -> list[MailboxState]:
        """An empty list: nothing waits in eager mode."""
        return []
