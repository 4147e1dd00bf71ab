"""A test's time limit ends it even where Hypothesis runs it.

Hypothesis takes pytest's failures for failures of the example, and runs that again. The limit is over then, so an
endless example ran on without one; and an example that was merely slow did not fail again, which a test of a planted
fault took for the fault.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import pytest


class TestTimedOut(BaseException):
    """The limit is over. Hypothesis catches no such thing."""

    __test__ = False


def let_timeouts_escape() -> None:
    """Have the timer of pytest-timeout, which has just been set, raise :exc:`TestTimedOut`."""
    handler: Any = signal.getsignal(signal.SIGALRM)
    if not callable(handler):
        return

    def escape(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except pytest.fail.Exception as failure:
            raise TestTimedOut(failure.msg) from None

    signal.signal(signal.SIGALRM, escape)
