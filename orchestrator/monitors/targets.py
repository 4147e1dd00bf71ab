"""Which living incarnations host an agent."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

from orchestrator.transport.store import Store

#: Longest trust in what was read; incarnations that join or end are noticed at once all the same.
_FRESH_S = 1.0

#: An incarnation says what it hosts shortly after it joins.
_NOT_SAID_YET_FRESH_S = 0.05


@dataclass(frozen=True, slots=True)
class Hosts:
    """Who hosts what, as of a value of the incarnation counter."""

    counter: str
    by_agent: dict[str, tuple[str, ...]]
    until: float


class Targets:
    """Looks up agents' incarnations. The scripts that use it check that nobody has joined since."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hosts = Hosts("", {}, float("-inf"))
        self._lock = threading.Lock()

    def hosts(self, *, anew: bool = False) -> Hosts:
        """Who hosts what.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        with self._lock:
            if anew or monotonic() > self._hosts.until:
                self._hosts = self._read()
            return self._hosts

    def _read(self) -> Hosts:
        client: Any = self._store.client
        k = self._store.keys
        counter = client.get(k.incarnation_counter) or b"0"
        living = [raw.decode() for raw in client.zrange(k.leases, 0, -1)]
        with client.pipeline(transaction=False) as pipe:
            for incarnation in living:
                pipe.hget(k.incarnation(incarnation), "agents")
            said = pipe.execute() if living else []
        by_agent: dict[str, list[str]] = {}
        for incarnation, raw in zip(living, said, strict=True):
            for agent in _names(raw):
                by_agent.setdefault(agent, []).append(incarnation)
        fresh_s = _FRESH_S if all(raw is not None for raw in said) else _NOT_SAID_YET_FRESH_S
        return Hosts(counter.decode(), {agent: tuple(ids) for agent, ids in by_agent.items()}, monotonic() + fresh_s)


def _names(raw: bytes | None) -> list[str]:
    try:
        loaded = json.loads(raw or b"[]")
    except ValueError:
        return []
    return [str(name) for name in loaded] if isinstance(loaded, list) else []
