"""Counts how long attempts take, and adds that to the counts in Redis with the heartbeats."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import Any, Final

from orchestrator.core.keys import Keys
from orchestrator.core.policies.run_times import bucket_of
from orchestrator.transport.redis import commands

#: Attempts between two heartbeats that are counted, at most: of more, the last.
_COUNTED: Final = 20_000

#: Seconds between two writes.
_WRITTEN_EVERY_S: Final = 5.0

#: Counts (of one task, in one bucket) that one script adds, and that wait for it at most.
_AT_ONCE: Final = 500
_WAITING: Final = 10_000


class RunTimes:
    """The run times of one process. Any thread records; the heartbeat's thread does the rest."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._recorded: deque[tuple[str, float]] = deque(maxlen=_COUNTED)
        self._counts: Counter[tuple[str, int]] = Counter()
        self._written_at = monotonic()

    def record(self, task: str, seconds: float) -> None:
        """Record an attempt of a task: handled after ``seconds``, or timed out (-1)."""
        self._recorded.append((task, seconds))

    def after_heartbeat(self, run: Callable[..., Any], *, at_once: bool = False) -> None:
        """Count what was recorded; now and then, or ``at_once``, write some of the counts.

        Raises:
            redis.exceptions.RedisError: Redis is unreachable; the counts are written later.
        """
        while self._recorded:
            task, seconds = self._recorded.popleft()
            place = task, bucket_of(seconds)
            if place in self._counts or len(self._counts) < _WAITING:
                self._counts[place] += 1
        if not self._counts or not (at_once or monotonic() - self._written_at > _WRITTEN_EVERY_S):
            return
        self._written_at = monotonic()
        some = dict(islice(self._counts.items(), _AT_ONCE))
        run(*commands.add_run_times(self._keys, some))
        for place in some:
            del self._counts[place]
