"""Works off the agendas of runs: the work that exceeded the budget of one script."""

from __future__ import annotations

from time import monotonic

from orchestrator.transport.store import Store
from orchestrator.workflows.redis import scripts


def advance(store: Store, uid: str, budget_s: float | None = None) -> None:
    """Work off a run's agenda, for at most ``budget_s`` seconds.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    until = None if budget_s is None else monotonic() + budget_s
    while store.run(*scripts.advance_run(store.keys, uid)):
        if until is not None and monotonic() > until:
            return
