"""Limits how many runs may be out at a time, in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.core.workflows.run_state import RunState
from orchestrator.eager.in_memory_run import InMemoryRun
from orchestrator.workflows.definition import LimitStrategy


class RunLimits:
    """The runs that are out under each limit."""

    def __init__(self, cancel: Callable[[InMemoryRun, bool], object]) -> None:
        #: Cancels a run, and compensates it if the second argument is true.
        self._cancel = cancel
        #: Key of a limit -> its runs, the oldest first.
        self._running: dict[str, list[InMemoryRun]] = {}

    def enter(self, run: InMemoryRun) -> bool:
        """Whether a run begins now; if not it is queued, or cancelled."""
        limit = run.compiled.limit
        if limit is None:
            return True
        running = self._running.setdefault(_key(run), [])
        while len(running) >= limit.running:
            if limit.strategy == LimitStrategy.QUEUE:
                run.rule.state = RunState.QUEUED
                return False
            if limit.strategy == LimitStrategy.CANCEL_NEWEST:
                run.because = "limit reached"
                self._cancel(run, False)
                return False
            oldest = running.pop(0)
            oldest.because = "a newer run began"
            self._cancel(oldest, oldest.rule.on_failure == "compensate")
        running.append(run)
        return True

    def leave(self, run: InMemoryRun, runs: Iterable[InMemoryRun], begin: Callable[[InMemoryRun], None]) -> None:
        """Begin those of the queued ``runs`` that have room after a run has ended."""
        limit, key = run.compiled.limit, _key(run)
        running = self._running.get(key, [])
        if limit is None or run not in running:
            return
        running.remove(run)
        for queued in runs:
            is_same = queued.compiled.limit is not None and _key(queued) == key
            if is_same and queued.rule.state is RunState.QUEUED and len(running) < limit.running:
                running.append(queued)
                queued.rule.state = RunState.RUNNING
                begin(queued)


def _key(run: InMemoryRun) -> str:
    limit = run.compiled.limit
    return (limit.key if limit else None) or run.compiled.name
