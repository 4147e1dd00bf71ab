"""The coordinator: sends every file to the auditors, as a supervised message each."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from orchestrator import Orchestrator
from workers.auditors import Audit, Auditor


class Coordinator:
    """Sends audits, a slice of time at once, so that whoever calls can look after other things in between."""

    def __init__(self, orchestrator: Orchestrator, audits: Sequence[Audit]) -> None:
        self._orchestrator = orchestrator
        self._audits = audits
        self.sent = 0

    @property
    def total(self) -> int:
        """How many there are to send."""
        return len(self._audits)

    @property
    def done(self) -> bool:
        """Whether everything is sent."""
        return self.sent == self.total

    def send_for(self, budget_s: float) -> None:
        """Send for about that long.

        Raises:
            BrokerUnavailable: Redis did not take a message.
        """
        until = monotonic() + budget_s
        while not self.done and monotonic() < until:
            # Nobody waits for the outcome of a single one: the ledger tells how they fare.
            self._orchestrator.send(Auditor, self._audits[self.sent], track=False)
            self.sent += 1
