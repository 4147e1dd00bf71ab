"""The coordinator: sends every file to the auditors, as a supervised message each."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from orchestrator import Orchestrator
from workers.auditors import Audit, Auditor


class Coordinator:
    """Sends audits for a slice of time per call, so that the caller can do other work in between."""

    def __init__(self, orchestrator: Orchestrator, audits: Sequence[Audit]) -> None:
        self._orchestrator = orchestrator
        self._audits = audits
        self.sent = 0

    @property
    def total(self) -> int:
        """Number of audits to send."""
        return len(self._audits)

    @property
    def done(self) -> bool:
        """Whether all audits are sent."""
        return self.sent == self.total

    def send_for(self, budget_s: float) -> None:
        """Send for about that long.

        Raises:
            BrokerUnavailable: Redis did not take a message.
        """
        until = monotonic() + budget_s
        while not self.done and monotonic() < until:
            # No outcome is waited for: the ledger counts them.
            self._orchestrator.send(Auditor, self._audits[self.sent], track=False)
            self.sent += 1
