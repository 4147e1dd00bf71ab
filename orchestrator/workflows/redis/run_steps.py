"""Serves the steps of runs in Redis that run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

from orchestrator.core.stored_values import stored_text
from orchestrator.core.workflows.expansion import Expanded
from orchestrator.core.workflows.run_calls import CallList, Suspended
from orchestrator.transport.redis.patience import OUTAGE_S, outlast
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.expansion import Compile, NewSteps
from orchestrator.workflows.compiling.plan_writer import PlanWriter
from orchestrator.workflows.functions.calls import NewCalls
from orchestrator.workflows.functions.history import History, history_of
from orchestrator.workflows.redis import scripts
from orchestrator.workflows.redis.expansion import write_calls, write_expansion
from orchestrator.workflows.redis.pages import ask
from orchestrator.workflows.steps.arguments import readers, run_gone

T = TypeVar("T")


class RedisRunSteps:
    """See :class:`orchestrator.workflows.backend.RunSteps`."""

    def __init__(self, store: Callable[[], Store], writer: PlanWriter) -> None:
        self._store = store
        self._writer = writer

    def expand(self, compile_steps: Compile, new: NewSteps, run: Mapping[str, Any]) -> Expanded | None:
        """See :class:`RunSteps`."""
        return self._outlast(lambda: write_expansion(self._store(), self._writer, compile_steps, new, run))

    def history(self, run: Mapping[str, Any]) -> History:
        """See :class:`RunSteps`."""
        store, uid = self._store(), str(run["uid"])

        def read_some(numbers: Sequence[str]) -> list[Any]:
            found = store.run(*scripts.read_outcomes(store.keys, uid, numbers))
            return [json.loads(text) if text else None for text in found]

        def read() -> History:
            key = store.keys.run(uid)
            raw: Any = store.client.hget(f"{key}:calls", str(run["step"]))
            if raw is None and not store.client.exists(key):
                raise run_gone(run)
            calls = CallList.from_text(None if raw is None else stored_text(raw))
            return history_of(run, calls, read_some, *readers(store, uid))

        history: History = self._outlast(lambda: ask(self._store(), read))
        return history

    def suspend(self, compile_steps: Compile, calls: NewCalls, run: Mapping[str, Any]) -> Suspended:
        """See :class:`RunSteps`."""
        return self._outlast(lambda: write_calls(self._store(), self._writer, compile_steps, calls, run))

    def _outlast(self, command: Callable[[], T]) -> T:
        """Repeat an attempt's command beside its handler: a Redis that is restarted is not the step's fault."""
        return outlast(monotonic() + OUTAGE_S, command)
