"""Reads runs in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Final

from redis.exceptions import RedisError

from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.errors import UnreadableKey
from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import stored_text
from orchestrator.core.workflows.plan import Kind, StepPlan
from orchestrator.core.workflows.run_state import RunState
from orchestrator.transport.redis.patience import outlast
from orchestrator.transport.store import Store
from orchestrator.workflows.records import (
    RunDetails,
    RunStatus,
    UndoRecord,
    failed_undos,
    is_step,
    status_from,
    step_records,
    undo_records,
)
from orchestrator.workflows.redis.pages import PAGE, ask, scan_hash
from orchestrator.workflows.redis.placing import candidates_in
from orchestrator.workflows.steps.arguments import final_from_redis, outcome_in_run, readers

logger = get_logger(__name__)

#: Definitions whose steps' numbers are cached.
_DEFINITIONS: Final = 20


class RedisRunReads:
    """See :class:`orchestrator.workflows.backend.RunReads`."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        #: By fingerprint and number of declared steps.
        self._numbers: dict[tuple[bytes, bytes], Mapping[str, tuple[str, bool]]] = {}

    def uid_of(self, workflow_id: str) -> str | None:
        """See :class:`RunReads`."""
        store = self._store()
        uid: Any = ask(store, lambda: store.client.hget(store.keys.runs_by_id, workflow_id))
        return None if uid is None else stored_text(uid)

    def uids(self) -> Iterator[str]:
        """See :class:`RunReads`."""
        store, at = self._store(), 0
        while True:
            page: Any = ask(store, lambda at=at: store.client.zrevrange(store.keys.runs, at, at + PAGE - 1))
            yield from (stored_text(uid) for uid in page)
            if len(page) < PAGE:
                return
            at += PAGE

    def status(self, uid: str) -> RunStatus | None:
        """See :class:`RunReads`."""
        store = self._store()
        raw: Any = ask(store, lambda: store.client.hgetall(store.keys.run(uid)))
        fields = {stored_text(name): stored_text(value) for name, value in raw.items()}
        with store.reading(store.keys.run(uid)):
            return status_from(uid, fields) if "id" in fields else None

    def status_or_skip(self, uid: str) -> RunStatus | None:
        """See :class:`RunReads`."""
        try:
            return self.status(uid)
        except UnreadableKey as error:
            logger.error("%s", error)
            return None

    def details(self, uid: str) -> RunDetails | None:
        """See :class:`RunReads`."""
        status = self.status(uid)
        if status is None:
            return None
        store = self._store()
        with store.reading(key := store.keys.run(uid)):
            return self._details(store, key, status)

    def _details(self, store: Store, key: str, status: RunStatus) -> RunDetails:
        uid = status.uid
        states = dict(scan_hash(store, f"{key}:states"))
        texts = scan_hash(store, f"{key}:plan")
        plans = {number: StepPlan.from_text(text) for number, text in texts if is_step(number)}
        maps = {number: [int(n) for n in text.split(",")] for number, text in scan_hash(store, f"{key}:maps")}
        declared: Any = ask(store, lambda: store.client.hget(key, "declared"))
        candidates = ask(store, lambda: candidates_in(store, uid, plans))
        posted = sorted(event for event, _ in scan_hash(store, f"{key}:events"))
        steps = step_records(plans, states, maps, int(declared or status.total), candidates)
        return RunDetails(status, steps, tuple(posted), self._undos(status, plans, states))

    def _undos(
        self, status: RunStatus, plans: Mapping[str, StepPlan], states: Mapping[str, str]
    ) -> tuple[UndoRecord, ...]:
        store, owed = self._store(), []
        key = f"{store.keys.run(status.uid)}:undo"
        if status.state is RunState.COMPENSATING:
            raw: Any = ask(store, lambda: store.client.lrange(key, 0, -1))
            owed = [stored_text(step) for step in raw]
        outcomes = {step: self.outcome(status.uid, step) for step in failed_undos(states)[:PAGE]}
        return undo_records(plans, states, owed, outcomes)

    def numbers(self, uid: str) -> Mapping[str, tuple[str, bool]]:
        """See :class:`RunReads`. Runs of one definition have the same, which is read once in a process."""
        store = self._store()
        key = store.keys.run(uid)
        definition: Any = tuple(ask(store, lambda: store.client.hmget(key, "fingerprint", "declared")))
        if None in definition:
            return {}
        if definition not in self._numbers:
            with store.reading(key):
                texts, declared = scan_hash(store, f"{key}:plan"), int(definition[1])
                plans = {n: StepPlan.from_text(text) for n, text in texts if n.isdigit() and int(n) < declared}
                found = {plan.name: (number, plan.kind is Kind.MAP) for number, plan in plans.items()}
            if len(self._numbers) >= _DEFINITIONS:
                self._numbers.clear()
            self._numbers[definition] = found
        return self._numbers[definition]

    def outcome(self, uid: str, number: str) -> Outcome | None:
        """See :class:`RunReads`."""
        store = self._store()
        raw: Any = ask(store, lambda: store.client.hget(f"{store.keys.run(uid)}:outcomes", number))
        with store.reading(f"{store.keys.run(uid)}:outcomes"):
            return None if raw is None else outcome_in_run(json.loads(raw), *readers(store, uid))

    def item_count(self, uid: str, number: str) -> int:
        """See :class:`RunReads`."""
        store = self._store()
        raw: Any = ask(store, lambda: store.client.hget(f"{store.keys.run(uid)}:maps", number))
        with store.reading(f"{store.keys.run(uid)}:maps"):
            return 0 if raw is None else int(raw.split(b",")[2])

    def final(self, uid: str) -> Any:
        """See :class:`RunReads`."""
        return final_from_redis(self._store(), uid)

    def wait(self, uid: str, timeout_s: float) -> bool:
        """See :class:`RunReads`. While Redis is away it waits for that too."""
        until = monotonic() + timeout_s
        store = outlast(until, self._store)
        key = f"{store.keys.run(uid)}:ended"
        try:
            raw: Any = outlast(until, lambda: store.client.lindex(key, 0))
            while raw is None and until > monotonic():
                raw = outlast(until, lambda: store.sleep_on(key, until))
        except RedisError as error:
            raise store.failure(error) from error
        return raw is not None
