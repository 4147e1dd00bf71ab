"""What a leaked monitor is, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class LeakKind(StrEnum):
    """Why a monitor counts as a leak."""

    OWNER_GONE = "owner gone"
    TARGET_GONE = "target gone"
    DUPLICATE = "duplicate"
    HALF_WRITTEN = "half-written"
    OLD = "old"


#: The act that mends each kind.
MENDED_BY = {
    LeakKind.OWNER_GONE: "remove it: there is nobody to tell",
    LeakKind.TARGET_GONE: "record its DOWN, reason noproc",
    LeakKind.DUPLICATE: "remove it: an older one of the same owner, target and tag stays",
    LeakKind.HALF_WRITTEN: "complete it, or remove what is left of it",
    LeakKind.OLD: "demonitor it, if nobody needs it any more: both ends are alive",
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
    #: What else there is to it: the older monitor's ref, or the set that names it.
    more: str = ""
    #: What stands in the ref's place in Redis, where that is no number and ``ref`` is 0.
    field: str = ""

    @property
    def mend(self) -> str:
        """What mends it."""
        return MENDED_BY[self.kind]


#: For classes with a method called ``list``.
Leaks = list[Leak]
