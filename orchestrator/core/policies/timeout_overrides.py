"""Timeouts that an operator has overridden for a while, as a worker looks them up for each message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.policies.timeouts import most_specific

#: The field of the hash in Redis that holds the version of the overrides.
VERSION: Final = ""

#: Tasks whose override is remembered.
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Override:
    """One override. It ends by Redis' clock, in eager mode by this process' clock."""

    #: ``agent.Message``, an agent, a task, or a pattern of these.
    name: str
    timeout_s: float
    #: When it began and when it ends, in ms since 1970.
    at_ms: int
    until_ms: int
    #: Who has set it: ``user@host``.
    by: str = ""
    #: How many seconds were left when it was read.
    left_s: float = 0.0

    @classmethod
    def from_wire(cls, name: str, raw: bytes | str, now_ms: int) -> Override | None:
        """Read the JSON that a script has written; ``None`` if it is something else."""
        try:
            wire: Any = json.loads(raw)
            timeout_s, at_ms, until_ms = float(wire["s"]), int(wire["at_ms"]), int(wire["until_ms"])
            by = str(wire.get("by", ""))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        left_s = (until_ms - now_ms) / 1000
        return cls(name, timeout_s, at_ms, until_ms, by, left_s) if is_number(timeout_s, 0) and timeout_s else None


def overrides_in(fields: Mapping[bytes, bytes], now_ms: int) -> list[Override]:
    """The overrides in force among the fields of the hash in Redis, by name."""
    found = (Override.from_wire(name.decode("utf-8", "replace"), raw, now_ms) for name, raw in fields.items() if name)
    return sorted((one for one in found if one is not None and one.left_s > 0), key=lambda one: one.name)


class OverrideTable:
    """The overrides in force, for any number of threads; false if there are none.

    Each ends by the monotonic clock, so also while Redis is away, and when the host's clock jumps.
    """

    def __init__(self, overrides: Iterable[Override] = (), clock: Callable[[], float] = monotonic) -> None:
        now_s = clock()
        self._clock = clock
        self._entries = {one.name: (one.timeout_s, now_s + one.left_s) for one in overrides}
        #: By task and agent: the timeout, if any, and when to look again.
        self._known: dict[tuple[str, str], tuple[float | None, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def timeout_s(self, task: str, agent: str = "") -> float | None:
        """The override of a task's timeout; ``None`` if there is none, or it has ended."""
        known = self._known.get((task, agent))
        now_s = self._clock()
        if known is None or known[1] <= now_s:
            known = self._look_up(task, agent, now_s)
        return known[0]

    def _look_up(self, task: str, agent: str, now_s: float) -> tuple[float | None, float]:
        living = {name: entry for name, entry in self._entries.items() if entry[1] > now_s}
        timeout_s, until_s = most_specific(living, (task, agent) if agent else (task,)) or (None, float("inf"))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[task, agent] = timeout_s, until_s
        return timeout_s, until_s
