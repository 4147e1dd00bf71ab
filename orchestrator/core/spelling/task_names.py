"""Finds the task that a misspelt name stands for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from orchestrator.core.spelling.nearest import nearest

#: From this likeness on, a module or an agent is a misspelt one. Names of tasks have long common beginnings.
_LIKENESS: Final = 0.8


def nearest_task(name: str, known: Collection[str]) -> str:
    """The known task whose name ``name`` is a misspelling of; empty if there is none.

    Both the last part and what precedes it must be similar: tasks of two modules of two apps often have the same
    last part. What the name of a known task ends with is that task too: Celery names a task by the module as it was
    imported.
    """
    before, _, last = name.rpartition(".")
    for other in sorted(known):
        if other.endswith(f".{name}") or name.endswith(f".{other}"):
            return other
    by_prefix: dict[str, dict[str, str]] = {}
    for other in sorted(known):
        prefix, _, end = other.rpartition(".")
        by_prefix.setdefault(prefix, {})[end] = other
    prefix = before if before in by_prefix else nearest(before, by_prefix, likeness=_LIKENESS)
    ends = by_prefix.get(prefix, {})
    return ends.get(nearest(last, ends), "")
