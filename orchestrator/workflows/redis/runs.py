"""Puts the parts together that start, read, act on and go on with runs in Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from celery import Celery

from orchestrator.registry.registry import OutdatedIncarnation
from orchestrator.sending.address import Directory
from orchestrator.transport.store import Store
from orchestrator.workflows.backend import RunsBackend
from orchestrator.workflows.compiling.plan_writer import PlanWriter
from orchestrator.workflows.redis.placing import Placing
from orchestrator.workflows.redis.run_controls import RedisRunControls
from orchestrator.workflows.redis.run_reads import RedisRunReads
from orchestrator.workflows.redis.run_starts import RedisRunStarts
from orchestrator.workflows.redis.run_steps import RedisRunSteps
from orchestrator.workflows.redis.run_upkeep import RunUpkeep


@dataclass(frozen=True, slots=True)
class RedisRuns(RunsBackend):
    """The runs of one app in Redis."""

    upkeep: RunUpkeep

    @classmethod
    def connect(
        cls,
        app: Celery,
        store: Callable[[], Store],
        directory: Directory,
        hidden: tuple[str, ...],
        keep_s: float,
        outdated: Callable[[], Sequence[OutdatedIncarnation]],
        *,
        result_limit_bytes: int,
    ) -> Self:
        """The runs in the Redis of ``store``, which is opened when it is used."""
        writer, reads = PlanWriter(app, store, hidden), RedisRunReads(store)
        return cls(
            starts=RedisRunStarts(store, reads, writer, keep_s, outdated),
            reads=reads,
            controls=RedisRunControls(store),
            steps=RedisRunSteps(store, writer),
            result_limit_bytes=result_limit_bytes,
            upkeep=RunUpkeep(store, reads, Placing(store, directory, writer)),
        )
