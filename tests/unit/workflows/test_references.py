"""A reference to a result is no value yet: what would take it for one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import ITEM
from orchestrator.workflows.references import Reference

USES: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "format": lambda result: f"{result}",
    "percent": lambda result: f"{result!s}",
    "bool": bool,
    "equal": lambda result: result == 3,
    "unequal": lambda result: result != 3,
    "greater": lambda result: result > 3,
    "in": lambda result: 3 in result,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("reference", [Reference("a"), Reference("a", ("pages", 0)), ITEM], ids=repr)
def test_it_is_not_taken_for_a_value(use: str, reference: Any) -> None:
    """Regression: a text became 'a.result', and a comparison False."""
    with pytest.raises(TypeError):
        USES[use](reference)


def test_the_error_says_what_is_not_known() -> None:
    with pytest.raises(
        TypeError, match=r"a\.result\['pages'\] is not known yet, so it is no text; pass it as an argument"
    ):
        str(Reference("a")["pages"])


def test_it_is_shown_and_compared_with_other_references() -> None:
    assert repr(Reference("a")[0]) == "a.result[0]"
    assert Reference("a")[0] == Reference("a", (0,))
    assert Reference("a") != Reference("b")
    assert Reference("a") != ITEM
    assert len({Reference("a"), Reference("a"), ITEM}) == 2
