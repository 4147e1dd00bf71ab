"""An event loop: files, signals and times. It sleeps in the kernel until something happens."""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import signal
import sys
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

_HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Signals that a terminal sends to all processes in it.
_OF_TERMINALS = (signal.SIGINT, signal.SIGHUP)

#: Longest sleep: what is asked for may be longer than the kernel takes.
_LONGEST_WAIT_S = 3600.0

#: After this many errors in a row, a file's function is not called any more: else it would be called for ever.
_MAX_ERRORS = 10


def _print_error(error: Exception) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"supervise: {type(error).__name__}: {error}\n")


class Loop:
    """Calls functions when files are ready, signals arrive, or times have come. What they raise is logged."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._errors: dict[int, int] = {}
        #: Called with what a function has raised.
        self.on_error: Callable[[Exception], None] = _print_error
        self._wakeups, self._wake = os.pipe()
        for descriptor in (self._wakeups, self._wake):
            os.set_blocking(descriptor, False)
        self._on_signal: Callable[[set[int]], None] = lambda _: None
        self.on(self._wakeups, self._take_signals)

    def handle_signals(self, on_signal: Callable[[set[int]], None]) -> None:
        """Have signals call this with their numbers, in the loop."""
        self._on_signal = on_signal
        for number in _HANDLED:
            # Signals that `nohup`, or a shell that starts it in the background, ignores stay ignored.
            if number not in _OF_TERMINALS or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._on_signal(set(os.read(self._wakeups, 4096)))

    def on(self, file: Any, call: Callable[[], None], events: int = selectors.EVENT_READ) -> None:
        """Call this whenever a file is ready, from now on.

        Raises:
            PermissionError: the kernel cannot say so, because it always is (a plain file).
        """
        try:
            self._selector.modify(file, events, call)
        except KeyError:
            self._selector.register(file, events, call)

    def off(self, file: Any) -> None:
        """Call nothing any more. To be called before the file is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call this once, at that time by the monotonic clock."""
        heapq.heappush(self._timers, (when, next(self._numbers), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call this once, so much later."""
        self.at(monotonic() + seconds, call)

    def wait(self, until: float | None) -> None:
        """Wait for something, at most until then, and call what is to be called."""
        times = [when for when in (until, self._timers[0][0] if self._timers else None) if when is not None]
        timeout_s = min(_LONGEST_WAIT_S, max(0.0, min(times) - monotonic())) if times else None
        for key, _ in self._selector.select(timeout_s):
            # What was called before may have closed this one.
            if self._selector.get_map().get(key.fd) == key:
                self._call_of_file(key)
        while self._timers and self._timers[0][0] <= monotonic():
            self.call(heapq.heappop(self._timers)[2])

    def call(self, call: Callable[[], None]) -> bool:
        """Call this; returns whether it has not raised."""
        try:
            call()
        except Exception as error:  # noqa: BLE001
            self.on_error(error)
            return False
        return True

    def _call_of_file(self, key: selectors.SelectorKey) -> None:
        if self.call(key.data):
            self._errors.pop(key.fd, None)
            return
        self._errors[key.fd] = self._errors.get(key.fd, 0) + 1
        # The pipe of signals was read before anything could raise.
        if self._errors[key.fd] >= _MAX_ERRORS and key.fd != self._wakeups:
            del self._errors[key.fd]
            self.off(key.fileobj)
