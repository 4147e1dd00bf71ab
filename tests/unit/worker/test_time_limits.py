"""An alarm interrupts the handler, and nothing before or after it."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from orchestrator.core.errors import HandlerTimeout
from orchestrator.worker.execution.time_limits import within


def _alarm() -> Any:
    """Who hears the alarm, and how often it repeats: that of pytest's own time limit, outside of the handler."""
    return signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[1]


def _spin() -> None:
    while True:
        pass


def _at_once() -> str:
    return "done"


@pytest.mark.parametrize("limit_s", [1e-6, 1e-5, 0.001])
def test_a_tiny_limit_interrupts_a_handler_and_leaves_no_alarm(limit_s: float) -> None:
    before = _alarm()
    for _ in range(200):
        with pytest.raises(HandlerTimeout):
            within(limit_s, "task", _spin, (), {})
        assert _alarm() == before


def test_a_limit_that_passes_as_the_handler_returns_leaves_no_alarm() -> None:
    before, ends = _alarm(), set()
    for microseconds in range(1, 400):
        try:
            ends.add(within(microseconds * 1e-6, "task", _at_once, (), {}))
        except HandlerTimeout:
            ends.add("interrupted")
        assert _alarm() == before
    assert ends <= {"done", "interrupted"}


@pytest.mark.parametrize("theirs", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_who_heard_the_alarm_before_hears_it_again(theirs: Any) -> None:
    handler, timer = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        signal.signal(signal.SIGALRM, theirs)
        assert within(5, "task", _at_once, (), {}) == "done"
        assert signal.getsignal(signal.SIGALRM) == theirs
        with pytest.raises(HandlerTimeout):
            within(0.001, "task", _spin, (), {})
        assert signal.getsignal(signal.SIGALRM) == theirs
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
