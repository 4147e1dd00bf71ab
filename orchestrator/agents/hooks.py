"""The methods of an agent that are called by their names."""

from __future__ import annotations

from enum import StrEnum


class Hook(StrEnum):
    """Every such method. A misspelt one is compared with these, and only these are looked up in a class."""

    DOWN = "on_down"
    CANCELLED = "on_cancelled"
    DECISION = "on_decision"
    ELECTED = "on_elected"
    DEPOSED = "on_deposed"


#: Those of singletons alone.
OF_SINGLETONS = frozenset({Hook.ELECTED, Hook.DEPOSED})
