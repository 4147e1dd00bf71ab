"""Captures where in the code a monitor was created: a few lines of stack, without building a traceback."""

from __future__ import annotations

import random
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

#: Lines of stack, innermost first.
_LINES = 4

#: With "sampled", 1 in this many is recorded.
_SAMPLE_SIZE = 16

_LIBRARY = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in the code, and a short name for it."""

    name: str = ""
    text: str = ""


NOWHERE = Origin()


class OriginRecorder:
    """Captures origins; ``mode`` is the setting ``monitor_origins``: on, sampled or off."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def capture(self) -> Origin:
        """The innermost callers outside of the library; :data:`NOWHERE` if this one is not recorded."""
        # A comparison and a random number cost nothing next to the round trip to Redis.
        if self._mode == "off" or (self._mode == "sampled" and random.randrange(_SAMPLE_SIZE)):
            return NOWHERE
        lines: list[str] = []
        frame = sys._getframe(1)
        while frame is not None and len(lines) < _LINES:
            code = frame.f_code
            if not code.co_filename.startswith(_LIBRARY) and not code.co_filename.endswith("contextlib.py"):
                lines.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        text = "\n".join(lines)
        return Origin(f"{zlib.crc32(text.encode()):08x}", text)
