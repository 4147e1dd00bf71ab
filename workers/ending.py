"""Stop signals, remembered so that none is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ending:
    """SIGTERM and Ctrl-C, each raised at once and remembered.

    What a signal handler raises is printed and forgotten if Python happens to be in the callback of a weak
    reference or in a finalizer, so a loop that waits calls :meth:`check`.
    """

    def __init__(self) -> None:
        self._number = 0

    def check(self) -> None:
        """Raise the exception of a signal that has come before, if any.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            SystemExit: SIGTERM; the code is the shell's, 128 and the signal's number.
        """
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number:
            raise SystemExit(128 + self._number)

    def _come(self, number: int, _: FrameType | None) -> None:
        self._number = number
        self.check()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Handle the signals in this context. An ignored SIGINT, as in a shell's background, stays ignored."""
        numbers = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            numbers.append(signal.SIGINT)
        before = {number: signal.signal(number, self._come) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
