"""Keeps overridden timeouts: in Redis, whose clock ends them, or in eager mode in memory."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.timeout_overrides import Override, OverrideTable, overrides_in
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.store import Store

#: Overrides at a time, at most: each worker reads all of them after a change.
MOST = 1000


def _by() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        # A container may run as a user without a name.
        return socket.gethostname()


class Overrides(Protocol):
    """A store of overridden timeouts. The Redis one raises ``BrokerUnavailable`` when Redis is away."""

    def set(self, name: str, timeout_s: float, for_s: float) -> Override:
        """Override the timeout of a name."""

    def list(self) -> list[Override]:
        """The overrides in force, by name."""

    def clear(self, names: Sequence[str] = ()) -> int:
        """End those of these names, or all; returns how many there were."""


class RedisOverrides:
    """In Redis. Workers read them with their heartbeats."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._callers = Callers()

    def set(self, name: str, timeout_s: float, for_s: float) -> Override:
        """Override the timeout of a name.

        Raises:
            InvalidPolicy: there are too many overrides.
            BrokerUnavailable: Redis is away.
        """
        store, by, ttl_ms = self._store, _by(), max(1, to_ms(for_s))

        def override(attempt: Attempt) -> Any:
            call = commands.override_timeout(
                store.keys, name, timeout_s, ttl_ms=ttl_ms, by=by, most=MOST, attempt=attempt
            )
            return store.run(*call)

        done, *numbers = self._callers.run(store.keys, override)
        if not done:
            raise InvalidPolicy("name", name, f"one of at most {MOST} overrides; there are {numbers[0]}")
        return Override(name, timeout_s, int(numbers[0]), int(numbers[1]), by, for_s)

    def list(self) -> list[Override]:
        """The overrides in force, by name.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        try:
            with self._store.client.pipeline(transaction=False) as pipe:
                pipe.hgetall(self._store.keys.timeout_overrides)
                pipe.time()
                fields, (seconds, micros) = pipe.execute()
        except RedisError as error:
            raise self._store.failure(error) from error
        return overrides_in(fields, seconds * 1000 + micros // 1000)

    def clear(self, names: Sequence[str] = ()) -> int:
        """End those of these names, or all; returns how many there were.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store
        cleared: int = self._callers.run(
            store.keys, lambda attempt: store.run(*commands.clear_timeouts(store.keys, attempt, names))
        )
        return cleared


class InMemoryOverrides:
    """Overrides in eager mode: in the memory of the process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._overrides: dict[str, Override] = {}
        self._table = OverrideTable(clock=clock)

    def timeout_s(self, task: str, agent: str) -> float | None:
        """The override of a task's timeout; ``None`` if there is none."""
        return self._table.timeout_s(task, agent) if self._table else None

    def set(self, name: str, timeout_s: float, for_s: float) -> Override:
        """Override the timeout of a name."""
        now_ms = to_ms(self._clock())
        self._overrides[name] = Override(name, timeout_s, now_ms, now_ms + to_ms(for_s), _by(), for_s)
        self._renew()
        return self._overrides[name]

    def list(self) -> list[Override]:
        """The overrides in force, by name."""
        now_ms = to_ms(self._clock())
        known = (replace(one, left_s=(one.until_ms - now_ms) / 1000) for one in self._overrides.values())
        return sorted((one for one in known if one.left_s > 0), key=lambda one: one.name)

    def clear(self, names: Sequence[str] = ()) -> int:
        """End those of these names, or all; returns how many there were."""
        ended = [one.name for one in self.list() if not names or one.name in names]
        for name in ended:
            del self._overrides[name]
        self._renew()
        return len(ended)

    def _renew(self) -> None:
        self._table = OverrideTable(self.list(), self._clock)
