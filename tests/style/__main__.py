"""``python -m tests.style``: fails where a tracked file holds a retired word of docs/glossary.md."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GLOSSARY = Path("docs/glossary.md")

#: Files that may name what is retired: the list itself, and the history.
EXEMPT = {"docs/glossary.md", "CHANGELOG.md"}

TEXT = {".py", ".lua", ".md", ".toml", ".yaml", ".yml", ".conf", ".html", ""}

_ROW = re.compile(r"^\| `(?P<pattern>.+?)` \| (?P<instead>.+?) \|$", re.MULTILINE)


def retired_words(glossary: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of the glossary's last table, each with what to write instead."""
    _, _, table = glossary.partition("## Retired words")
    rows = [(row["pattern"].replace(r"\|", "|"), row["instead"]) for row in _ROW.finditer(table)]
    return [(re.compile(pattern), instead) for pattern, instead in rows]


def problems() -> Iterator[str]:
    """One line for each retired word: where it is, and what to write instead."""
    words = retired_words(GLOSSARY.read_text("utf-8"))
    if not words:
        yield f"{GLOSSARY}: no table of retired words"
    tracked = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        path = Path(name)
        if name in EXEMPT or path.suffix not in TEXT or not path.is_file():
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            for pattern, instead in words:
                if found := pattern.search(line):
                    yield f"{name}:{number}: retired word {found[0]!r}; use: {instead}"


def main() -> int:
    """Print every problem; the exit status is 1 if there is any."""
    found = list(problems())
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
