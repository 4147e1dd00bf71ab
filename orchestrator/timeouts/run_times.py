"""Reads the counts of run times: in Redis, or in eager mode in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from redis.exceptions import RedisError

from orchestrator.core.keys import RUN_TIME_DAYS
from orchestrator.core.policies.run_times import bucket_of
from orchestrator.transport.store import Store

#: Tasks that are read in one round trip.
_AT_ONCE = 100

_DAY_S = 24 * 3600


class RunTimesReader(Protocol):
    """Reads counts of run times. The Redis one raises ``BrokerUnavailable`` when Redis is away."""

    def counts(self, tasks: Iterable[str]) -> Mapping[str, Mapping[int, int]]:
        """By task: bucket -> attempts, of the last days."""


class RedisRunTimes:
    """The run times that workers have recorded in Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def counts(self, tasks: Iterable[str]) -> Mapping[str, Mapping[int, int]]:
        """By task: bucket -> attempts, of the last days.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        names = list(tasks)
        client, keys = self._store.client, self._store.keys
        found: dict[str, Counter[int]] = {}
        try:
            today = client.time()[0] // _DAY_S
            for at in range(0, len(names), _AT_ONCE):
                wanted = [
                    (task, keys.run_times(today - back, task))
                    for task in names[at : at + _AT_ONCE]
                    for back in range(RUN_TIME_DAYS)
                ]
                with client.pipeline(transaction=False) as pipe:
                    for _, key in wanted:
                        pipe.hgetall(key)
                    for (task, _), fields in zip(wanted, pipe.execute(), strict=True):
                        of_task = found.setdefault(task, Counter())
                        of_task.update({int(bucket): int(count) for bucket, count in fields.items()})
        except RedisError as error:
            raise self._store.failure(error) from error
        return found


class InMemoryRunTimes:
    """The run times of a process in eager mode."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {}

    def record(self, task: str, seconds: float) -> None:
        """Record an attempt of a task: handled after ``seconds``, or timed out (-1)."""
        self._counts.setdefault(task, Counter())[bucket_of(seconds)] += 1

    def counts(self, tasks: Iterable[str]) -> Mapping[str, Mapping[int, int]]:
        """By task: bucket -> attempts."""
        return {task: self._counts.get(task, Counter()) for task in tasks}
