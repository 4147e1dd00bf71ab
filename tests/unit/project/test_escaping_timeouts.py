"""A time limit ends a test that Hypothesis runs."""

from __future__ import annotations

import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.escaping_timeouts import TestTimedOut


@pytest.mark.timeout(60)
def test_a_time_limit_is_no_failure_of_an_example() -> None:
    """Regression: Hypothesis caught it, and ran the example again, without a limit."""
    runs: list[int] = []

    @given(st.integers())
    def waits(number: int) -> None:
        runs.append(number)
        # As the timer of this test does at its end.
        signal.raise_signal(signal.SIGALRM)
        threading.Event().wait(30)

    with pytest.raises(TestTimedOut, match="Timeout"):
        waits()
    assert len(runs) == 1
