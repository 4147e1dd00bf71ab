"""References to results of other steps: what stands in a step's arguments until the step begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.workflows.result_path import MARK

Path = tuple[str | int, ...]


class _Unknown:
    """Refuses what would silently make a text or a bool of a value that comes later."""

    __slots__ = ()

    def __str__(self) -> str:
        raise TypeError(f"{self!r} is not known yet, so it is no text; pass it as an argument of its own")

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self!r} is not known yet, so it is neither true nor false; a handler of a later step decides"
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Unknown):
            return self is other or (type(self) is type(other) and self._parts() == other._parts())
        raise TypeError(f"{self!r} is not known yet, so it equals nothing; a handler of a later step compares")

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[Any, ...]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Reference(_Unknown):
    """The result of a step, or a part of it: ``step.result["pages"][0]``.

    Its value is ``None`` if the step was not handled.
    """

    step: str
    path: Path = ()

    def __getitem__(self, part: str | int) -> Reference:
        return Reference(self.step, (*self.path, part))

    def __iter__(self) -> Iterator[Any]:
        # Else Python would ask for [0], [1], … without end.
        raise TypeError(
            f"the result of step {self.step!r} is not known yet; flow.map(…, over=…) has a step for each item"
        )

    def __repr__(self) -> str:
        return f"{self.step}.result" + "".join(f"[{part!r}]" for part in self.path)

    def _parts(self) -> tuple[Any, ...]:
        return self.step, self.path


@dataclass(frozen=True, slots=True, eq=False)
class Item(_Unknown):
    """Stands in a map's message for the item that the message is about, or for a part of it."""

    path: Path = ()

    def __getitem__(self, part: str | int) -> Item:
        return Item((*self.path, part))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("the item of a map is not known yet")

    def __repr__(self) -> str:
        return "ITEM" + "".join(f"[{part!r}]" for part in self.path)

    def _parts(self) -> tuple[Any, ...]:
        return self.path


@dataclass(frozen=True, slots=True)
class Results:
    """The results of several steps, in their order, as a list."""

    steps: tuple[str, ...]


#: Stands for the item that a map's message is about: ``flow.map("page", Page, over=…, fields={"number": ITEM})``.
ITEM: Final = Item()


#: Types of values that hold no other values.
PLAIN: Final = frozenset({int, str, float, bool, type(None)})

_REFERENCES: Final = (Reference, Item, Results)


def references_in(value: Any) -> list[Reference | Item | Results]:
    """All references in JSON-like data."""
    found: list[Reference | Item | Results] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Reference | Item | Results]) -> None:
    # Most values are plain; `isinstance` of an abstract class takes long, so that it comes last.
    if type(value) in PLAIN:
        return
    if isinstance(value, list | tuple):
        for part in value:
            if type(part) not in PLAIN:
                _collect(part, found)
    elif isinstance(value, _REFERENCES):
        found.append(value)
    elif isinstance(value, dict | Mapping):
        for part in value.values():
            _collect(part, found)


def has_mark(value: Any) -> bool:
    """Whether a user's data has the member that marks references."""
    if type(value) in PLAIN:
        return False
    if isinstance(value, list | tuple):
        return any(has_mark(part) for part in value if type(part) not in PLAIN)
    if isinstance(value, dict | Mapping):
        return MARK in value or any(has_mark(part) for part in value.values())
    return False
