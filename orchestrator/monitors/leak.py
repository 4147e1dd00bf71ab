"""Leaked monitors, and how each kind is repaired."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class LeakKind(StrEnum):
    """The reason why a monitor counts as a leak."""

    OWNER_GONE = "owner gone"
    TARGET_GONE = "target gone"
    DUPLICATE = "duplicate"
    HALF_WRITTEN = "half-written"
    OLD = "old"


#: How each kind is repaired.
REPAIRS = {
    LeakKind.OWNER_GONE: "remove it: its owner is gone",
    LeakKind.TARGET_GONE: "record its DOWN, reason noproc",
    LeakKind.DUPLICATE: "remove it: an older one of the same owner, target and tag stays",
    LeakKind.HALF_WRITTEN: "complete it, or remove what is left of it",
    LeakKind.OLD: "demonitor it, if it is not needed any more: both ends are alive",
}


@dataclass(frozen=True, slots=True)
class Leak:
    """A leaked monitor. ``detail`` is the proof: what is wrong with it."""

    kind: LeakKind
    ref: int
    owner: str
    target: str
    tag: Any
    age_s: float
    origin: str
    detail: str
    #: The older monitor's ref, or the set that names it.
    more: str = ""
    #: The text in place of the ref in Redis, if it is not a number; ``ref`` is 0 then.
    field: str = ""

    @property
    def repair(self) -> str:
        """The way in which it is repaired."""
        return REPAIRS[self.kind]


#: For classes with a method called ``list``.
Leaks = list[Leak]
