"""A process forks while another thread of it holds what the child is going to need."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.core import forks
from orchestrator.core.forks import ForkSafeLock, lazy_property
from tests.support.eventually import eventually

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")


def _ends_well(act: Callable[[], object]) -> bool:
    """Whether a forked child does this and ends; it is killed if it does not."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:  # noqa: BLE001
            os._exit(1)
        os._exit(0)
    ended: list[int] = []

    def has_ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended.append(status)
        return bool(found)

    try:
        eventually(has_ended, 5)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return False
    return ended == [0]


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """Lets the other threads end."""
    event = threading.Event()
    yield event
    event.set()


def _meanwhile(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_a_child_can_take_a_lock_that_another_thread_held(go_on: threading.Event) -> None:
    lock, held = ForkSafeLock(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go_on.wait(20)

    thread = _meanwhile(hold)
    assert held.wait(5)
    assert _ends_well(lock.__enter__)
    go_on.set()
    thread.join(5)
    with lock:
        assert not thread.is_alive()


def test_a_child_can_work_out_a_property_that_another_thread_was_working_out(go_on: threading.Event) -> None:
    begun, parent = threading.Event(), os.getpid()

    class Slow:
        @lazy_property
        def value(self) -> int:
            if os.getpid() == parent:
                begun.set()
                go_on.wait(20)
            return 1

    slow = Slow()
    _meanwhile(lambda: slow.value)
    assert begun.wait(5)
    assert _ends_well(lambda: slow.value)


def test_a_child_can_import_what_another_thread_was_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go_on: threading.Event
) -> None:
    begun = threading.Event()
    monkeypatch.setattr(sys, "slow_import", (begun, go_on), raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import sys\nbegun, go_on = sys.slow_import\nbegun.set()\ngo_on.wait(20)\nvalue = 1\n"
    (tmp_path / "a_slow_import.py").write_text(text)
    thread = _meanwhile(lambda: __import__("a_slow_import"))
    assert begun.wait(5)

    def let_it_end(_: float) -> None:
        go_on.set()
        thread.join(5)

    # The fork waits: only then does the import go on.
    monkeypatch.setattr(forks, "sleep", let_it_end)
    assert _ends_well(lambda: __import__("a_slow_import").value)
