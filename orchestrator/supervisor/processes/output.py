"""What the children write: with a prefix to the supervisor's standard output, and the last lines of each in memory.

Nothing here waits. What a terminal or a pipe does not take in time is dropped, and counted.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable
from time import localtime, monotonic, strftime, time

from orchestrator.core.checks.text import printable
from orchestrator.supervisor.processes.kept_lines import KeptLines
from orchestrator.supervisor.processes.ready_descriptor import WRITABLE, becomes_ready

#: Bytes that wait for standard output, at most.
_MAX_WAITING = 256 * 1024

_LONGEST_LINE = 4096

#: Bytes of the children's last lines that are kept: of all children together, and of one at least and at most.
_KEPT = 512 * 1024
_LEAST_SHARE, _LARGEST_SHARE = 2 * 1024, 64 * 1024

#: A write of this size does not block a pipe that says it has room.
_AT_ONCE = 4096

_READ_AT_ONCE = 65536

#: Time to write what waits, at the end.
_DRAIN_S = 1.0

#: What could steer a terminal, or make one line look like another's; colours pass.
_STEERING = re.compile(rb"\x1b(?!\[[0-9;]{0,32}m)|[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]")

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


def time_of_day() -> str:
    """The time as the log of a Celery worker writes it."""
    now = time()
    return f"[{strftime('%Y-%m-%d %H:%M:%S', localtime(now))},{int(now % 1 * 1000):03d}]"


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in found[0])


class Console:
    """The supervisor's standard output."""

    def __init__(self, descriptor: int, *, colours: bool) -> None:
        self.descriptor = descriptor
        self._colours = colours
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._known: dict[str, int] = {}
        self._outputs = 0
        #: Called when there is something to write, and when there is not any more.
        self.on_waiting: Callable[[bool], None] = lambda _: None

    def count_output(self, more: int) -> None:
        """There are so many more children, or fewer, who share the memory for last lines."""
        self._outputs += more

    @property
    def share(self) -> int:
        """Bytes of last lines that are kept of one child."""
        return min(_LARGEST_SHARE, max(_LEAST_SHARE, _KEPT // max(1, self._outputs)))

    def line(self, name: str, text: bytes) -> None:
        """A line of a child, or of the supervisor itself."""
        prefix = name.ljust(16).encode()
        if self._colours:
            colour = _COLOURS[self._known.setdefault(name, len(self._known)) % len(_COLOURS)]
            prefix = b"\x1b[%dm%s\x1b[0m" % (colour, prefix)
        whole = prefix + b" | " + text + b"\n"
        if self._size + len(whole) > _MAX_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            whole = b"... %d lines dropped\n" % self._dropped + whole
            self._dropped = 0
        if not self._waiting:
            self.on_waiting(True)
        self._waiting.append(whole)
        self._size += len(whole)

    def say(self, text: str) -> None:
        """A line of the supervisor's own. What it quotes (a command, a name) cannot steer the terminal."""
        whole = f"{time_of_day()} {printable(text)}"
        self.line("supervise", whole.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Write what can be written; to be called when there is room."""
        if not self._waiting:
            return
        piece = b""
        while self._waiting and len(piece) < _AT_ONCE:
            piece += self._waiting.popleft()
        piece, rest = piece[:_AT_ONCE], piece[_AT_ONCE:]
        try:
            written = os.write(self.descriptor, piece)
        except BlockingIOError:
            written = 0
        except OSError:
            # Nobody reads any more, or the disk is full.
            self._dropped += piece.count(b"\n") + rest.count(b"\n") + b"".join(self._waiting).count(b"\n")
            self._waiting.clear()
            self._size = 0
            self.on_waiting(False)
            return
        rest = piece[written:] + rest
        self._size -= written
        if rest:
            self._waiting.appendleft(rest)
        if not self._waiting:
            self.on_waiting(False)

    def drain(self) -> None:
        """Write all, at the end; what nobody takes within a second is dropped."""
        until = monotonic() + _DRAIN_S
        while self._waiting and becomes_ready(self.descriptor, WRITABLE, until - monotonic()):
            self.flush()


class ChildOutput:
    """One child's lines, over all of its runs; ``with_time``: their time of day is put in front of them."""

    def __init__(self, name: str, console: Console, *, with_time: bool = False) -> None:
        self._name = name
        self._with_time = with_time
        self._console = console
        self._pending = b""
        console.count_output(1)
        self.lines = KeptLines()
        #: Lines since the present run began.
        self.of_run = 0

    def close(self) -> None:
        """The child was removed."""
        self._console.count_output(-1)

    def say(self, text: str) -> None:
        """A line about it."""
        self._take(text.encode())

    def began(self) -> None:
        """Another run begins."""
        self.of_run = 0

    def read(self, descriptor: int) -> bool:
        """Read once; whether there may be more later."""
        try:
            received = os.read(descriptor, _READ_AT_ONCE)
        except BlockingIOError:
            return True
        except OSError:
            received = b""
        if not received:
            self.finish()
            return False
        *lines, self._pending = (self._pending + received).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._pending) > _LONGEST_LINE:
            self._take(self._pending)
            self._pending = b""
        return True

    def drain(self, descriptor: int) -> None:
        """Read what a process that has ended has left, at most as much as a pipe holds."""
        for _ in range(16):
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, False)
            before = self.of_run
            if not self.read(descriptor) or self.of_run == before:
                break
        self.finish()

    def finish(self) -> None:
        """There is no more; a last line without an end is one too."""
        if self._pending:
            self._take(self._pending)
            self._pending = b""

    def last_words(self, count: int = 5) -> list[str]:
        """The last lines of the present run."""
        mine = self.lines.last(self.of_run) if self.of_run else []
        return [line.decode("utf-8", "replace") for line in mine if line.strip()][-count:]

    def _take(self, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if self._with_time:
            line = time_of_day().encode() + b" " + line
        if len(line) > _LONGEST_LINE:
            line = line[:_LONGEST_LINE] + b" ... %d bytes more" % (len(line) - _LONGEST_LINE)
        line = _STEERING.sub(_escaped, line)
        self.lines.add(line, self._console.share)
        self.of_run += 1
        self._console.line(self._name, line)
