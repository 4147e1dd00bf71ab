"""References to results of other steps: what stands in a step's arguments until the step begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.result_path import MARK

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Reference:
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


@dataclass(frozen=True, slots=True)
class Item:
    """Stands in a map's message for the item that the message is about, or for a part of it."""

    path: Path = ()

    def __getitem__(self, part: str | int) -> Item:
        return Item((*self.path, part))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("the item of a map is not known yet")

    def __repr__(self) -> str:
        return "ITEM" + "".join(f"[{part!r}]" for part in self.path)


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
