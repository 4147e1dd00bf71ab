"""Records of a demo run in Redis: which auditor started which message, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.transport.store import Store

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Start:
    """An attempt at a message has begun."""

    #: By Redis' clock.
    at_ms: int
    delivery: str
    attempt: int
    worker: str
    #: The process that runs the attempt, and its parent: with a prefork pool, the worker.
    pid: int
    parent_pid: int


class Records:
    """The records of one demo run, under a key of their own beside the orchestrator's."""

    def __init__(self, store: Store, run: str) -> None:
        # redis-py's annotations allow for text answers and none at all.
        self._client: Any = store.client
        self._starts = f"{store.keys.prefix}demo:{run}:starts"

    def note_start(self, delivery: str, attempt: int, worker: str) -> None:
        """Record that an attempt begins. The id that Redis gives the record is the time."""
        self._client.xadd(
            self._starts,
            {
                "delivery": delivery,
                "attempt": attempt,
                "worker": worker,
                "pid": os.getpid(),
                "parent_pid": os.getppid(),
            },
        )

    def starts(self) -> Iterator[Start]:
        """Every attempt, in the order in which they began."""
        after = "-"
        while rows := self._client.xrange(self._starts, min=after, count=_PAGE):
            for entry, fields in rows:
                yield Start(
                    at_ms=int(entry.split(b"-")[0]),
                    delivery=fields[b"delivery"].decode(),
                    attempt=int(fields[b"attempt"]),
                    worker=fields[b"worker"].decode(),
                    pid=int(fields[b"pid"]),
                    parent_pid=int(fields[b"parent_pid"]),
                )
            after = f"({rows[-1][0].decode()}"
