"""Which frames of a traceback are the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_FRAME: Final = re.compile(r'^  File "([^"]*)", line \d+, in ')

#: This library, wherever it is imported from. A user's own package may have the same name.
_LIBRARY: Final = f"{Path(__file__).parents[1]}/"

#: Paths of installed packages, of the standard library, and of this library.
_FOREIGN: Final = re.compile(rf"/(site|dist)-packages/|/lib/python\d|^<frozen |^{re.escape(_LIBRARY)}")


def own_frames(traceback: str) -> str:
    """A traceback's text without the frames of libraries; all of it, if no other frame is in it."""
    kept: list[str] = []
    own = foreign = False
    for line in traceback.splitlines():
        if frame := _FRAME.match(line):
            foreign = bool(_FOREIGN.search(frame[1]))
            own = own or not foreign
        elif not line.startswith("    "):
            # The error itself, or how two of them hang together.
            foreign = False
        if not foreign:
            kept.append(line)
    return "\n".join(kept) if own else traceback
