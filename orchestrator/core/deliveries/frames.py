"""Reduces a traceback to the frames of the user's own code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_FRAME: Final = re.compile(r'^  File "([^"]*)", line \d+, in ')

#: The path of this library. A user's own package may have the same name, but not the same path.
_LIBRARY: Final = f"{Path(__file__).parents[2]}/"

#: Paths of installed packages, of the standard library, and of this library.
_FOREIGN: Final = re.compile(rf"/(site|dist)-packages/|/lib/python\d|^<frozen |^{re.escape(_LIBRARY)}")


def own_frames(traceback: str) -> str:
    """A traceback's text without the frames of libraries; unchanged if it has no other frames."""
    lines: list[str] = []
    own = foreign = False
    for line in traceback.splitlines():
        if frame := _FRAME.match(line):
            foreign = bool(_FOREIGN.search(frame[1]))
            own = own or not foreign
        elif not line.startswith("    "):
            # The error itself, or the sentence between an error and its cause.
            foreign = False
        if not foreign:
            lines.append(line)
    return "\n".join(lines) if own else traceback
