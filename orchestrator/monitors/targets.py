"""Finds the living incarnations that host an agent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import monotonic
from typing import Any

from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.stored_values import stored_text
from orchestrator.transport.store import Store

#: Seconds for which a look-up is used; the scripts notice incarnations that join or end meanwhile.
_CACHE_S = 1.0

#: Seconds for which it is used while an incarnation has joined but not announced its agents yet.
_CACHE_UNANNOUNCED_S = 0.05


@dataclass(frozen=True, slots=True)
class Hosts:
    """Agents -> incarnations that host them, as of a value of the incarnation counter."""

    counter: str
    by_agent: dict[str, tuple[str, ...]]
    until: float


class Targets:
    """Looks up agents' incarnations. The scripts check that no incarnation has joined since the look-up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hosts = Hosts("", {}, float("-inf"))
        self._lock = ForkSafeLock()

    def hosts(self, *, refresh: bool = False) -> Hosts:
        """The incarnations of each agent; read again if ``refresh`` or if the cache is too old.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        with self._lock:
            if refresh or monotonic() > self._hosts.until:
                self._hosts = self._read()
            return self._hosts

    def _read(self) -> Hosts:
        client: Any = self._store.client
        keys = self._store.keys
        counter = client.get(keys.incarnation_counter) or b"0"
        living = [raw.decode(errors="replace") for raw in client.zrange(keys.leases, 0, -1)]
        with client.pipeline(transaction=False) as pipe:
            for incarnation in living:
                pipe.hget(keys.incarnation(incarnation), "agents")
            announced = pipe.execute() if living else []
        by_agent: dict[str, list[str]] = {}
        for incarnation, raw in zip(living, announced, strict=True):
            for agent in _names(raw):
                by_agent.setdefault(agent, []).append(incarnation)
        cache_s = _CACHE_S if all(raw is not None for raw in announced) else _CACHE_UNANNOUNCED_S
        return Hosts(
            stored_text(counter), {agent: tuple(ids) for agent, ids in by_agent.items()}, monotonic() + cache_s
        )


def _names(raw: bytes | None) -> list[str]:
    try:
        loaded = json.loads(raw or b"[]")
    except ValueError:
        return []
    return [str(name) for name in loaded] if isinstance(loaded, list) else []
