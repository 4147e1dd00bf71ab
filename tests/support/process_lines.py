"""The lines that a process writes, each with an end to the wait for it."""

from __future__ import annotations

import os
import selectors
from typing import IO, Any


class ProcessLines:
    """Reads from a pipe, which nobody else reads.

    Lines may come together. What a file object has read beyond one line, no selector knows of any more.
    """

    def __init__(self, pipe: IO[Any] | None, timeout_s: float) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._timeout_s = timeout_s
        self._pending = b""

    def next(self) -> str:
        """The next line, without its end; fails the test if there is none in time."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                assert selector.select(self._timeout_s), f"no line after {self._timeout_s:g} s"
                received = os.read(self._pipe.fileno(), 65536)
                assert received, f"the process has ended after {self._pending!r}"
                self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()
