"""Goes on with runs in Redis in sweeps, and forgets expired ones for the monitor manager."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_text
from orchestrator.transport.redis.refused_work import RefusedWork
from orchestrator.transport.store import Store
from orchestrator.workflows.redis.agendas import advance
from orchestrator.workflows.redis.pages import ask, pages, scan_hash
from orchestrator.workflows.redis.placing import Placing
from orchestrator.workflows.redis.run_reads import RedisRunReads

logger = get_logger(__name__)

#: Runs that are gone on with in one round.
_BUSY: Final = 200

#: Seconds for which one sweep goes on with runs: the dead are more urgent.
_WORK_S: Final = 0.4


class RunUpkeep:
    """Goes on with runs that would wait, and forgets those that have expired."""

    def __init__(self, store: Callable[[], Store], reads: RedisRunReads, placing: Placing) -> None:
        self._store = store
        self._reads = reads
        self._placing = placing
        self._refused = RefusedWork(logger)

    def work_off(self) -> None:
        """Place steps again, and work off agendas that are left. Each sweep calls this.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store()
        until = monotonic() + _WORK_S
        self._placing.work_off(until)
        busy: Any = ask(store, lambda: store.client.srandmember(store.keys.busy_runs, _BUSY))
        for uid in self._refused.last(map(stored_text, busy), "the agenda of run"):
            try:
                advance(store, uid, until - monotonic())
            except BrokerUnavailable as error:
                # One run must not hold up the others.
                self._refused.pass_over(f"the agenda of run {uid}", error)
            if monotonic() > until:
                return

    def forget_expired(self) -> int:
        """Remove the runs whose keys have expired from the lists of runs; returns how many.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store()
        gone = self._expired(list(self._reads.uids()))
        for some in pages(gone):
            ask(store, lambda some=some: store.client.zrem(store.keys.runs, *some))
        by_id = {uid: workflow_id for workflow_id, uid in scan_hash(store, store.keys.runs_by_id)}
        for some in pages([by_id[uid] for uid in self._expired(list(by_id))]):
            ask(store, lambda some=some: store.client.hdel(store.keys.runs_by_id, *some))
        return len(gone)

    def _expired(self, uids: list[str]) -> list[str]:
        store, gone = self._store(), []
        for some in pages(uids):
            with store.client.pipeline(transaction=False) as pipe:
                for uid in some:
                    pipe.exists(store.keys.run(uid))
                kept: Any = ask(store, pipe.execute)
            gone += [uid for uid, exists in zip(some, kept, strict=True) if not exists]
        return gone
