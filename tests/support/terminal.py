"""A real ``celery`` on a terminal of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
from collections.abc import Mapping

from orchestrator.supervisor.processes.ready_descriptor import READABLE, becomes_ready
from tests.support.worker_process import ROOT

#: What a terminal is told before each drawing.
CLEAR = b"\x1b[2J"


class Terminal:
    """A command on a terminal of its own, and what it has shown."""

    def __init__(
        self, redis_url: str, *arguments: str, columns: int = 250, environment: Mapping[str, str] | None = None
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.apps.shop", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "ORCHESTRATOR_BROKER_URL": redis_url,
                "COLUMNS": str(columns),
                "TERM": "xterm",
                **(environment or {}),
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
            if left_s <= 0 or not becomes_ready(self._ours, READABLE, left_s):
                raise AssertionError(f"no {text!r} within {timeout_s:g} s, but {self.shown!r}")
            self.shown += os.read(self._ours, 65536)
        before, _, self.shown = self.shown.partition(text)
        return before

    def read_out(self, timeout_s: float = 30.0) -> None:
        """Read to the end: whoever ends with more to say than a terminal takes waits for somebody to read it."""
        give_up = time.monotonic() + timeout_s
        # Linux tells of the end by an error.
        with contextlib.suppress(OSError):
            while (left_s := give_up - time.monotonic()) > 0 and becomes_ready(self._ours, READABLE, left_s):
                self.shown += os.read(self._ours, 65536)

    def text(self) -> str:
        """All that it shows until it ends."""
        self.read_out()
        assert self.process.wait(timeout=30) == 0, self.shown
        return self.shown.decode().replace("\r\n", "\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        os.close(self._ours)
