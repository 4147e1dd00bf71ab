"""`agents --watch` on a terminal: it is drawn anew when something changed, and Ctrl-C ends it well."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.apps.shop import make
from tests.worker_process import ROOT

#: What a terminal is told before each drawing.
CLEAR = b"\x1b[2J"


class Terminal:
    """A command on a terminal of its own, and what it has shown."""

    def __init__(self, redis_url: str, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.apps.shop", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "ORCHESTRATOR_BROKER_URL": redis_url,
                "COLUMNS": "250",
                "TERM": "xterm",
            },
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = b""

    def until(self, text: bytes, timeout_s: float = 60.0) -> bytes:
        """Everything up to the first text like this from here on."""
        give_up = time.monotonic() + timeout_s
        while text not in self.shown:
            left_s = give_up - time.monotonic()
            if left_s <= 0 or not select.select([self._ours], [], [], left_s)[0]:
                raise AssertionError(f"no {text!r} within {timeout_s:g} s, but {self.shown!r}")
            self.shown += os.read(self._ours, 65536)
        before, _, self.shown = self.shown.partition(text)
        return before

    def read_out(self, timeout_s: float = 30.0) -> None:
        """Read to the end: whoever ends with more to say than a terminal takes waits for somebody to read it."""
        give_up = time.monotonic() + timeout_s
        # Linux tells of the end by an error.
        with contextlib.suppress(OSError):
            while (left_s := give_up - time.monotonic()) > 0 and select.select([self._ours], [], [], left_s)[0]:
                self.shown += os.read(self._ours, 65536)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        os.close(self._ours)


@pytest.mark.timeout(150)
def test_agents_are_drawn_anew_until_ctrl_c(redis_url: str) -> None:
    shop = make(redis_url)
    store = shop.store
    terminal = Terminal(redis_url, "agents", "--watch", "0.1")
    try:
        terminal.until(CLEAR)
        assert b"billing@joined" not in terminal.until(CLEAR)
        fields = ["node", "w1", "queues", '["billing"]', "agents", '["billing"]']
        keys = [store.keys.leases, store.keys.incarnation_counter]
        store.run("register", keys, [store.keys.root, "billing@joined:1", *fields])
        terminal.until(b"billing@joined:1#")
        # It goes on by itself, on a cleared screen, and shows the same once more.
        terminal.until(CLEAR)
        terminal.until(b"billing@joined:1#")
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.read_out()
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.close()
