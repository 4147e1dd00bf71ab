"""The last lines of a child, as text in one piece: an object for each line would take as much memory again."""

from __future__ import annotations

#: Lines that are kept, at most.
MOST_LINES = 200

#: Of a share that is full, this much is left.
_LEFT = 3 / 4


class KeptLines:
    """Lines that were added last; at least one, and otherwise no more bytes than its share."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._count = 0

    def add(self, line: bytes, share: int) -> None:
        """Keep a line, which has no line feed."""
        self._text += line + b"\n"
        self._count += 1
        if len(self._text) > share or self._count > 2 * MOST_LINES:
            self._trim(len(line) + 1, int(share * _LEFT))

    def _trim(self, last: int, size: int) -> None:
        # The line that is cut goes as a whole; the last one stays, however long it is.
        cut = max(0, len(self._text) - max(size, last))
        if cut:
            cut = self._text.find(b"\n", cut - 1) + 1
        del self._text[:cut]
        lines = self._text.split(b"\n")
        if len(lines) - 1 > MOST_LINES:
            self._text = bytearray(b"\n".join(lines[-MOST_LINES - 1 :]))
        self._count = min(len(lines) - 1, MOST_LINES)

    def last(self, count: int = MOST_LINES) -> list[bytes]:
        """The last lines, at most ``count`` and :data:`MOST_LINES`."""
        return bytes(self._text).split(b"\n")[:-1][-min(count, MOST_LINES) :]
