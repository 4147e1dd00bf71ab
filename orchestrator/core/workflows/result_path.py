"""Follows a path in a result, which may be made of the results of other steps.

The result of a step whose place other steps have taken is their ``final``: JSON data with references. A reference is
replaced only when a path leads through it. ``includes/runs.lua`` does the same for the lists that maps go over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from orchestrator.core.workflows.plan import numbers_in

#: The only member of the JSON object that stands for a reference.
MARK: Final = "$orc"

#: A value, and whether references in it are still to be replaced.
Found = tuple[Any, bool]


class ResultPaths:
    """Follows paths through the outcomes of one run.

    Args:
        outcome: the outcome of a step or an item by its number, as JSON data.
        item_count: the number of a map's items; ``None`` if it has not begun.
    """

    def __init__(
        self, outcome: Callable[[str], Mapping[str, Any] | None], item_count: Callable[[str], int | None]
    ) -> None:
        self._outcome = outcome
        self._item_count = item_count

    def follow(self, reference: Mapping[str, Any]) -> Found:
        """The value of a reference to a step, a map or several steps; a list of results stays a reference.

        Raises:
            LookupError, TypeError: there is no such part.
        """
        path = list(reference["path"])
        while "step" not in reference:
            if not path:
                return {MARK: {**reference, "path": []}}, True
            reference = {"step": self._member(reference, path.pop(0)), "path": []}
        found = result_of(self._outcome(str(reference["step"])))
        if found == (None, False):
            return found
        for name in path:
            value, refers = self._replaced(found)
            if refers and (inner := reference_in(value)) is not None:
                found = self.follow({**inner, "path": [name]})
            else:
                found = value[name], refers
        return self._replaced(found)

    def length(self, reference: Mapping[str, Any]) -> int | None:
        """The length of the list that a reference leads to; ``None`` if that is no list.

        Raises:
            LookupError, TypeError: there is no such part.
        """
        value, refers = self.follow(reference)
        inner = reference_in(value) if refers else None
        if inner is not None:
            return self._item_count(inner["map"]) if "map" in inner else sum(1 for _ in numbers_in(inner["steps"]))
        return len(value) if isinstance(value, list) else 0 if value == {} else None

    def _replaced(self, found: Found) -> Found:
        value, refers = found
        inner = reference_in(value) if refers else None
        return found if inner is None else self.follow(inner)

    def _member(self, reference: Mapping[str, Any], place: Any) -> str:
        if not isinstance(place, int):
            raise TypeError(f"a list has no {place!r}")
        if "map" in reference:
            count = self._item_count(reference["map"]) or 0
            return f"{reference['map']}.{range(count)[place]}"
        numbers: Iterator[int] = numbers_in(reference["steps"])
        if place < 0:
            return str(list(numbers)[place])
        try:
            return str(next(islice(numbers, place, None)))
        except StopIteration:
            raise IndexError(place) from None


def result_of(outcome: Mapping[str, Any] | None) -> Found:
    """The result in an outcome; of a step whose place others have taken, their ``final``."""
    if outcome is None:
        return None, False
    if "expanded" in outcome:
        return outcome["expanded"].get("final"), True
    return outcome.get("result"), False


def reference_in(value: Any) -> Mapping[str, Any] | None:
    """The reference that a value is; ``None`` if it is none."""
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get(MARK), Mapping):
        return value[MARK]  # type: ignore[no-any-return]
    return None
