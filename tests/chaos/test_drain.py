"""A chaos run ends its wait for what is pending only when nothing can come any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chaos.run import Run
from orchestrator.sending.ledger import LedgerRow


class DrainingCluster:
    """A cluster with one barrier, whose end sends a message after the ledger was read."""

    mailboxes = ("muster",)

    def __init__(self) -> None:
        self.rows = LedgerRow("muster", accepted=1, handled=1)

    def ledger(self) -> list[LedgerRow]:
        return [self.rows]

    def calls(self) -> list[Any]:
        return []

    open_runs = calls

    def open_barriers(self) -> list[Any]:
        if self.rows.accepted == 1:
            self.rows = LedgerRow("muster", accepted=2, handled=1, ready=1)
        elif self.rows.pending:
            raise AssertionError("a mailbox with a message is not asked about barriers")
        return []


def test_what_the_end_of_a_barrier_sends_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a message that was sent between two looks was still pending when the workers were stopped."""
    cluster = DrainingCluster()
    run = Run(cluster, SimpleNamespace(drain_s=5), print)  # type: ignore[arg-type]

    def tend() -> None:
        if cluster.rows.pending:
            cluster.rows = LedgerRow("muster", accepted=2, handled=2)

    monkeypatch.setattr(run, "_tend", tend)
    assert run._drain()
    assert cluster.rows.handled == 2
