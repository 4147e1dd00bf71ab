"""Retired words: no tracked file holds one that docs/glossary.md lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.style.tracked import tracked

GLOSSARY = Path("docs/glossary.md")

#: Files that may name what is retired: the list, the history, the checks, the former names that errors explain, and
#: the licence, whose words are not ours.
EXEMPT = {
    "docs/glossary.md",
    "CHANGELOG.md",
    "LICENSE",
    "orchestrator/core/spelling/former_names.py",
    "tests/unit/core/spelling/test_former_names.py",
    "tests/unit/project/test_style.py",
}

#: The heading of the words that are retired in texts that are shown.
SHOWN = "### In texts that are shown"

TEXT = (".py", ".lua", ".md", ".toml", ".yaml", ".yml", ".conf", ".html", "")

_ROW = re.compile(r"^\| `(?P<pattern>.+?)` \| (?P<instead>.+?) \|$", re.MULTILINE)


def retired_words(glossary: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of the glossary's table of words retired everywhere, each with what to write instead."""
    _, _, retired = glossary.partition("## Retired words")
    table, _, _ = retired.partition(SHOWN)
    return [(re.compile(pattern, re.MULTILINE), instead) for pattern, instead in _rows(table)]


def retired_in_shown_texts(glossary: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of the glossary's table of words retired in the texts of logs and errors; of any case."""
    _, _, table = glossary.partition(SHOWN)
    return [(re.compile(rf"\b({pattern})\b", re.IGNORECASE), instead) for pattern, instead in _rows(table)]


def _rows(table: str) -> list[tuple[str, str]]:
    return [(row["pattern"].replace(r"\|", "|"), row["instead"]) for row in _ROW.finditer(table)]


def problems() -> Iterator[str]:
    """One line for each retired word: where it is, and what to write instead."""
    words = retired_words(GLOSSARY.read_text("utf-8"))
    if not words:
        yield f"{GLOSSARY}: no table of retired words"
    # Hardly a file has any: one search for all takes a fifth of the time of one for each.
    any_word = re.compile("|".join(f"(?:{pattern.pattern})" for pattern, _ in words), re.MULTILINE)
    for path in tracked(*TEXT):
        if str(path) in EXEMPT:
            continue
        text = path.read_text("utf-8")
        for number, line in enumerate(text.splitlines() if any_word.search(text) else (), 1):
            for pattern, instead in words:
                if found := pattern.search(line):
                    yield f"{path}:{number}: retired word {found[0]!r}; use: {instead}"
