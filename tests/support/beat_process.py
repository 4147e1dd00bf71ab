"""Real beats in processes of their own, which tests may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from chaos.forked_process import ROOT, ForkedProcess
from chaos.owner import VARIABLE as OWNER_VARIABLE


class BeatProcess:
    """``celery -A APP beat`` against a Redis."""

    def __init__(self, app: str, redis_url: str, *arguments: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="beat-", suffix=".log")[1])
        celery = str(Path(sys.executable).with_name("celery"))
        self._command = [sys.executable, celery, "-A", app, "beat", "-l", "INFO", "--pidfile", "", *arguments]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATOR_BROKER_URL": redis_url,
            "PYTHONWARNINGS": "ignore",
            OWNER_VARIABLE: str(os.getpid()),
        }
        self.process: ForkedProcess | None = None

    def start(self) -> BeatProcess:
        """Start it (again)."""
        with self._log.open("ab") as log:
            self.process = ForkedProcess(
                self._command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Signal it."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for its end; returns the exit code."""
        assert self.process is not None
        return self.process.wait(timeout=timeout_s)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def __enter__(self) -> BeatProcess:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process is not None:
            self.kill()
        if kind is not None:
            sys.stderr.write(f"--- beat\n{self.log()[-4000:]}\n")
        self._log.unlink(missing_ok=True)
