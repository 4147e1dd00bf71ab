"""The tables in ``docs/tests`` name tests that exist, in every row but those that say why something is not built."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs" / "tests").glob("*.md"))
_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
_DEFINED = re.compile(r"^ *def (\w+)\(", re.MULTILINE)


def rows(page: Path) -> list[str]:
    """The rows of its tables, without their heads."""
    lines = page.read_text().splitlines()
    rules = {at for at, line in enumerate(lines) if re.fullmatch(r"\|(-+\|)+", line)}
    heads = rules | {at - 1 for at in rules}
    return [line for at, line in enumerate(lines) if line.startswith("|") and at not in heads]


def missing(text: str) -> list[str]:
    """The tests that a text names by ``file.py::name``, below ``tests``, and that do not exist."""
    return [f"{path}::{name}" for path, name in _NAMED.findall(text) if name not in _functions(ROOT / "tests" / path)]


@cache
def _functions(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return set(_DEFINED.findall(path.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_row_names_tests_that_exist(page: Path) -> None:
    found = rows(page)
    assert found
    assert [row for row in found if not _NAMED.search(row) and "not built" not in row] == []
    assert missing(page.read_text()) == []


def test_a_test_or_a_file_that_does_not_exist_is_found() -> None:
    here = Path(__file__).relative_to(ROOT / "tests")
    assert missing(f"`{here}::rows`") == []
    assert missing(f"`{here}::test_no` `unit/nothing.py::test_it`") == [f"{here}::test_no", "unit/nothing.py::test_it"]


def test_there_are_pages() -> None:
    assert {"calls.md", "continuations.md", "coordination.md", "supervise.md"} <= {page.name for page in PAGES}
