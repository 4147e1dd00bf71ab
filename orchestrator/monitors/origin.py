"""Where in the code a monitor was made: a few lines of stack, captured without building a traceback."""

from __future__ import annotations

import random
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

#: Lines of stack, innermost first.
_LINES = 4

#: With "sampled", one in so many.
_ONE_IN = 16

_OURS = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in the code, and a short name for it."""

    name: str = ""
    text: str = ""


NOWHERE = Origin()


class Origins:
    """Captures origins as the setting says."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def here(self) -> Origin:
        """The callers of the library, if this one is to be noted."""
        # A comparison of strings and a draw: nothing to notice beside a round trip to Redis.
        if self._mode == "off" or (self._mode == "sampled" and random.randrange(_ONE_IN)):
            return NOWHERE
        lines: list[str] = []
        frame = sys._getframe(1)
        while frame is not None and len(lines) < _LINES:
            code = frame.f_code
            if not code.co_filename.startswith(_OURS) and not code.co_filename.endswith("contextlib.py"):
                lines.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        text = "\n".join(lines)
        return Origin(f"{zlib.crc32(text.encode()):08x}", text)
