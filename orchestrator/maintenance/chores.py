"""What the monitor manager does now and then beside its sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.clock import to_ms
from orchestrator.core.log import get_logger
from orchestrator.transport.store import Store

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Done by whichever manager sweeps when it is due. ``name`` also names its mark in Redis."""

    name: str
    every_s: float
    run: Callable[[], Any]


class Chores:
    """Does what is due.

    Chores have no messages of their own: the mailbox of the manager holds the last sweep and nothing else, so that one
    which was busy is not behind. That they are due is kept in Redis, by its clock and for all managers.
    """

    def __init__(self, chores: Sequence[Chore], store: Callable[[], Store], sweep_interval_s: float) -> None:
        self._chores = tuple(chores)
        self._store = store
        # A chore comes with the sweep that is nearest to its time, rather than always with the one after.
        self._early_s = sweep_interval_s / 2

    def do_due(self) -> list[str]:
        """Do them, one after the other; returns which.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store, done = self._store(), []
        for chore in self._chores:
            wait_ms = max(1, to_ms(chore.every_s - self._early_s))
            if not store.run("claim_chore", [store.keys.chore(chore.name)], [wait_ms]):
                continue
            done.append(chore.name)
            try:
                chore.run()
            except Exception:
                # One that fails whenever it is done must keep nobody from doing the others.
                logger.exception("%s failed; it is done again in %g s", chore.name, chore.every_s)
        return done
