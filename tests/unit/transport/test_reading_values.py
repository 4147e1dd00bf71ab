"""What a stored value is taken apart by: what is wrong with the value is told from what is wrong with the code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.core.errors import UnreadableKey
from orchestrator.core.keys import Keys
from orchestrator.core.workflows.placement import PlacementRecord
from orchestrator.transport.store import Store


def store() -> Store:
    nothing: Any = None
    return Store(nothing, Keys(), nothing, (), None, "redis://")


def two(one: object, other: object, *, more: object = None) -> None:
    """A function of this library."""


def by_place(one: object, /) -> None:
    """Another, whose argument has no name."""


#: Bugs: a function is called with what it does not take.
WRONG_CALLS: dict[str, Callable[[], Any]] = {
    "too few": lambda: two(1),  # type: ignore[call-arg]
    "too many": lambda: two(1, 2, 3),  # type: ignore[call-arg]
    "an unknown one": lambda: two(1, 2, less=3),  # type: ignore[call-arg]
    "one twice": lambda: two(1, 2, one=3),  # type: ignore[misc]
    "one by its name": lambda: by_place(one=1),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_is_no_fault_of_the_value(name: str) -> None:
    """Regression: the operator was told to delete the key."""
    with pytest.raises(TypeError, match=r"(two|by_place)\(\)"):
        store().read_or_skip("orc:named:lease:a", WRONG_CALLS[name])


@pytest.mark.parametrize("text", ["5", "[1]", "null", '"a"', "{}", "{", '{"o": null}'])
def test_a_value_of_another_shape_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableKey, match="orc:named:lease:a"), store().reading("orc:named:lease:a"):
        json.loads(text)["o"]["e"].split(" ")


@pytest.mark.parametrize("candidates", [[["a"]], [["a", "1", "q", "0", "more"]], [5]])
def test_a_placement_with_odd_candidates_is_unreadable(candidates: Any) -> None:
    text = json.dumps({"needs": ["ocr"], "levels": [], "candidates": candidates, "send": "{}"})
    with pytest.raises(UnreadableKey), store().reading("orc:run:a"):
        PlacementRecord.from_text(text)
