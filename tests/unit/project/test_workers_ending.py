"""A signal is not forgotten, even where Python forgets what its handler raises."""

from __future__ import annotations

import os
import signal
import weakref

import pytest

from workers.ending import Ending


class Thing:
    """Something to refer to weakly."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_the_callback_of_a_weak_reference_is_raised_by_the_next_check() -> None:
    """Regression: the demo went on after a SIGTERM that came while a weak dictionary cleaned up."""
    ending = Ending()
    with ending.heeded():
        thing = Thing()
        _reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del thing
        with pytest.raises(SystemExit) as told:
            ending.check()
    assert told.value.code == 128 + signal.SIGTERM


def test_without_a_signal_nothing_is_raised() -> None:
    ending = Ending()
    with ending.heeded():
        ending.check()
