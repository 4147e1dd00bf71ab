"""Dead links: each relative link in a Markdown page leads to a file, and each anchor to a heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.style.tracked import tracked

_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(?P<text>.+?) *$", re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, no punctuation, dashes for blanks."""
    found: set[str] = set()
    for heading in _HEADING.finditer(re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"]).lower()
        base = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        name, count = base, 0
        while name in found:
            count += 1
            name = f"{base}-{count}"
        found.add(name)
    return found


def dead_links(path: Path) -> Iterator[str]:
    """The problems of one page's links."""
    text = path.read_text("utf-8")
    prose = _CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
    for link in _LINK.finditer(prose):
        target, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        where = f"{path}:{prose.count(chr(10), 0, link.start()) + 1}"
        other = path.parent / target if target else path
        if not other.exists():
            yield f"{where}: dead link {link['target']!r}: there is no {target}"
        elif anchor and anchor not in anchors(other.read_text("utf-8")):
            yield f"{where}: dead link {link['target']!r}: {other.name} has no heading #{anchor}"


def problems() -> Iterator[str]:
    """One line for each dead link of a tracked page."""
    for path in tracked(".md"):
        yield from dead_links(path)
