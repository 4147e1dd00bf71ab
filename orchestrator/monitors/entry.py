"""Monitors as they are listed and counted."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

#: Longest tag, as JSON.
_LONGEST_TAG = 1000


@dataclass(frozen=True, slots=True)
class MonitorEntry:
    """One monitor."""

    ref: int
    #: The incarnation or session that gets the DOWN.
    owner: str
    #: The agent in whose mailbox the DOWN is put; empty for a session.
    agent: str
    #: The agent or incarnation that is monitored, as the caller named it.
    target: str
    #: The monitored incarnations that have not ended yet.
    incarnations: tuple[str, ...]
    tag: Any
    created_ms: int
    age_s: float
    #: Where in the code it was created, innermost line first; empty if not recorded.
    origin: str
    owner_alive: bool
    target_alive: bool


#: For classes with a method called ``list``.
MonitorEntries = list[MonitorEntry]


@dataclass(frozen=True, slots=True)
class MonitorStats:
    """Counts since the first monitor; ``created = active + cleaned``.

    A monitor is cleaned when it is removed by hand, its owner or its target has died, or it was repaired as a leak.
    ``leaked`` is what the last search for leaks has found.
    """

    created: int = 0
    active: int = 0
    cleaned: int = 0
    leaked: int = 0
    removed: int = 0
    owner_died: int = 0
    target_died: int = 0
    repaired: int = 0
    downs: int = 0


def stats_of(active: int, counts: Mapping[str, int]) -> MonitorStats:
    """The statistics from the stored counters."""
    manual, owner, target, leak = (counts.get(name, 0) for name in ("manual", "owner_died", "target_died", "leak"))
    return MonitorStats(
        created=counts.get("created", 0),
        active=active,
        cleaned=manual + owner + target + leak,
        leaked=counts.get("leaked", 0),
        removed=manual,
        owner_died=owner,
        target_died=target,
        repaired=leak,
        downs=counts.get("downs", 0),
    )


@dataclass(frozen=True, slots=True)
class Record:
    """A monitor as stored in Redis; ``lua/includes/monitors.lua`` writes it."""

    ref: int
    owner: str
    agent: str
    created_ms: int
    tag_json: str
    origin: str
    target: str
    incarnations: tuple[str, ...]

    @classmethod
    def parse(cls, ref: bytes, raw: bytes) -> Record | None:
        """The record; ``None`` if it is unreadable."""
        parts = raw.decode("utf-8", "replace").split("\n")
        if len(parts) < 7 or not (parts[0] and parts[2].isdecimal() and ref.isdigit()):
            return None
        owner, agent, created, tag, origin, target, *left = parts
        return cls(int(ref), owner, agent, int(created), tag, origin, target, tuple(left))

    def entry(self, now_ms: int, origins: Mapping[str, str], alive: Set[str]) -> MonitorEntry:
        """As it is shown."""
        return MonitorEntry(
            ref=self.ref,
            owner=self.owner,
            agent=self.agent,
            target=self.target,
            incarnations=self.incarnations,
            tag=read_tag(self.tag_json),
            created_ms=self.created_ms,
            age_s=max(0.0, (now_ms - self.created_ms) / 1000),
            origin=origins.get(self.origin, ""),
            owner_alive=self.owner in alive,
            target_alive=any(incarnation in alive for incarnation in self.incarnations),
        )


def oldest_records(records: Iterable[Record], limit: int) -> list[Record]:
    """The oldest records, each once, in order. Holds at most ``limit`` records in memory."""
    found: dict[int, Record] = {}
    #: Their refs, negative, so that the youngest is the first.
    heap: list[int] = []
    for record in records:
        if record.ref in found or limit <= 0:
            continue
        if len(found) < limit:
            heapq.heappush(heap, -record.ref)
        elif record.ref < -heap[0]:
            del found[-heapq.heapreplace(heap, -record.ref)]
        else:
            continue
        found[record.ref] = record
    return [found[ref] for ref in sorted(found)]


def write_tag(tag: Any) -> str:
    """A tag as JSON, always the same for equal tags.

    Raises:
        ValueError: it is not JSON data, or too long.
    """
    try:
        text = json.dumps(tag, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if len(text) > _LONGEST_TAG:
        raise ValueError(f"{len(text)} characters")
    return text


def read_tag(text: str) -> Any:
    """The tag; the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
