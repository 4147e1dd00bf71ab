"""Placement: which agent gets the message of a step that names what it needs instead of an agent.

``includes/run_placement.lua`` is the same rule over Redis.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: Why a step is dead for which no living agent was found in time.
UNPLACED: Final = "unplaced"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that handles the message and offers all that is needed."""

    agent: str
    #: Number of its message's template, its mailbox and its priority's stream.
    template: str
    queue: str
    level: str


@dataclass(frozen=True, slots=True)
class PlacementRecord:
    """The data of a placement in a run, once for all steps that have the same one."""

    needs: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    #: The streams of a mailbox: what lies in them is an agent's load.
    levels: tuple[str, ...] = ()
    #: After how many ms a step without a living candidate is dead; ``None`` for never.
    within_ms: int | None = None
    #: What it takes to write the message for an agent that is known later; for the sweep.
    send: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """As Redis keeps it: cjson reads it, and leaves ``send`` as it is."""
        wire: dict[str, Any] = {
            "needs": list(self.needs),
            "levels": list(self.levels),
            "candidates": [[one.agent, one.template, one.queue, one.level] for one in self.candidates],
            "send": json.dumps(dict(self.send), sort_keys=True),
        }
        if self.within_ms is not None:
            wire["within_ms"] = self.within_ms
        return json.dumps(wire)

    @classmethod
    def from_text(cls, text: str) -> PlacementRecord:
        """Inverse of :meth:`to_text`."""
        wire = json.loads(text)
        # An empty list that cjson has written is an object.
        found = wire["candidates"] or ()
        candidates = tuple(Candidate(agent, template, queue, level) for agent, template, queue, level in found)
        needs, levels = tuple(wire["needs"]), tuple(wire["levels"])
        return cls(needs, candidates, levels, wire.get("within_ms"), json.loads(wire["send"]))


def names_fault(names: object) -> str:
    """The faults in the names of capabilities; empty if there are none."""
    allowed = "allowed: a set of names of letters, digits, '_', '.', '-', each at most 100"
    if isinstance(names, str) or not isinstance(names, Collection) or not names:
        return allowed
    return "" if all(isinstance(name, str) and _NAME.fullmatch(name) for name in names) else allowed


def offers(capabilities: Collection[str], needs: Iterable[str]) -> bool:
    """Whether an agent with these capabilities offers all that is needed."""
    return all(need in capabilities for need in needs)


def least_loaded(loads: Sequence[float | None], first: int = 0) -> int | None:
    """The index of the least load, of equal ones the next from ``first`` on; ``None`` if there is none.

    A load is ``None`` for an agent that does not live.
    """
    best = None
    for offset in range(len(loads)):
        index = (first + offset) % len(loads)
        load = loads[index]
        if load is not None and (best is None or load < loads[best]):  # type: ignore[operator]
            best = index
    return best


def unplaced_error(needs: Sequence[str]) -> str:
    """The reason of a dead step that was not placed in time."""
    return f"no living agent offers {', '.join(needs)}"
