"""The files that the documentation names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

#: In back quotes, with a folder at least: a bare name may be the reader's own file.
_PATH = re.compile(r"`([a-z_]+(?:/[a-z_]+)+\.(?:py|lua))`")

_FILES = [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("[!.]*/**/*") if path.suffix in {".py", ".lua"}]


@pytest.mark.parametrize("page", ["architecture.md", "hooks.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    named = set(_PATH.findall((ROOT / "docs" / page).read_text()))
    assert len(named) > 20
    missing = [path for path in sorted(named) if not any(file.endswith(f"/{path}") for file in _FILES)]
    assert missing == [], "named, and not there"
