"""``python -m tests.style [words] [links] [lua] [calls] [prose]``: print every problem; run all checks by default."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from tests.style import calls, links, lua, prose, words

CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "words": words.problems,
    "links": links.problems,
    "lua": lua.problems,
    "calls": calls.problems,
    "prose": prose.problems,
}


def main(arguments: Sequence[str]) -> int:
    """Run the named checks, or all of them; the exit status is 1 if there is a problem, 2 for an unknown name."""
    unknown = [name for name in arguments if name not in CHECKS]
    if unknown:
        print(f"unknown check {unknown[0]!r}; allowed: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    found = [line for name in arguments or CHECKS for line in CHECKS[name]()]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
