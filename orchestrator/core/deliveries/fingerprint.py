"""The fingerprint of a failure: its error type and its stack, without what differs from run to run."""

from __future__ import annotations

import hashlib
import re

_FRAME = re.compile(r'^\s*File "([^"]*)", line \d+, in (.+)$', re.MULTILINE)

_SEPARATOR = re.compile(r"[/\\]")

#: Number of the deepest frames that count, so that recursion does not make a group of each depth.
_FRAMES = 12


def normalised_stack(traceback: str) -> tuple[str, ...]:
    """The frames of a traceback's text as ``file:function``: no directories, line numbers, source lines or addresses.

    So a letter stays in its group after a deployment that only moved lines, or to another directory.
    Repeated frames count once.
    """
    frames: list[str] = []
    for path, function in _FRAME.findall(traceback):
        frame = f"{_SEPARATOR.split(path)[-1]}:{function.strip()}"
        if not frames or frames[-1] != frame:
            frames.append(frame)
    return tuple(frames[-_FRAMES:])


def fingerprint(error_type: str, traceback: str = "", place: str = "") -> str:
    """Twelve hexadecimal digits, the same for failures with the same error type and normalised stack.

    Where there is no stack (a worker died, a message could not be read), ``place`` counts, which is ``agent.message``.
    ``dead_letters.lua`` computes that second form too.
    """
    way = "\n".join(normalised_stack(traceback)) or place
    text = f"{error_type}\n{way}".encode("utf-8", "surrogatepass")
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()[:12]
