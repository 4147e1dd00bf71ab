"""Records of ended deliveries in eager mode: outcomes, their records and the ledger, which Redis keeps on a broker."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from orchestrator.core.deliveries.history import Attempt, outcome_record
from orchestrator.core.deliveries.outcome import Outcome, kind
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.sending.ledger import LedgerRow


class EagerRecords:
    """Outcomes by delivery, and the counters of each mailbox."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Outcome] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._counters: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def outcome(self, delivery_id: str) -> Outcome | None:
        """The outcome of a delivery; ``None`` if it has none."""
        return self._outcomes.get(delivery_id)

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        """The outcome with its history, as a broker would keep it; ``None`` if there is none."""
        return self._records.get(delivery_id)

    def count(self, queue: str, counter: str) -> None:
        """Add one to a counter of a mailbox."""
        with self._lock:
            counters = self._counters.setdefault(queue, {})
            counters[counter] = counters.get(counter, 0) + 1

    def end(self, queue: str, delivery_id: str, outcome: Outcome, supervision: Supervision, last: Attempt) -> None:
        """Record the outcome of a delivery, whose attempt ``last`` was its last, and count it."""
        self.count(queue, kind(outcome))
        self._outcomes[delivery_id] = outcome
        self._records[delivery_id] = outcome_record(outcome, supervision, last)

    def ledger(self) -> list[LedgerRow]:
        """The counters of each mailbox, by name."""
        with self._lock:
            return [LedgerRow(queue, **counters) for queue, counters in sorted(self._counters.items())]
