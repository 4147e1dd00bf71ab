"""Periodic work of the monitor manager in addition to its sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.clock import to_ms
from orchestrator.core.log import get_logger
from orchestrator.transport.redis import commands
from orchestrator.transport.store import Store

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Work that is due every ``every_s`` seconds. ``name`` also names its key in Redis."""

    name: str
    every_s: float
    run: Callable[[], Any]


class Chores:
    """Does the chores that are due.

    Chores have no messages: the manager's mailbox holds at most one message, so that a manager that was busy has no
    backlog. When a chore is due is stored in Redis, by its clock, for all managers.
    """

    def __init__(self, chores: Sequence[Chore], store: Callable[[], Store], sweep_interval_s: float) -> None:
        self._chores = tuple(chores)
        self._store = store
        # A chore is done with the sweep nearest to its time, not always with the one after.
        self._early_s = sweep_interval_s / 2

    def do_due(self) -> list[str]:
        """Do the chores that are due, one after the other; returns their names.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        store, done = self._store(), []
        for chore in self._chores:
            wait_ms = max(1, to_ms(chore.every_s - self._early_s))
            if not store.run(*commands.claim_chore(store.keys, chore.name, wait_ms)):
                continue
            done.append(chore.name)
            try:
                chore.run()
            except Exception:
                # A chore that always fails must not prevent the others.
                logger.exception("%s failed; next run in %g s", chore.name, chore.every_s)
        return done
