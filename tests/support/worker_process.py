"""Real workers in processes of their own, which tests may kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from chaos.forked_process import ROOT as ROOT
from chaos.forked_process import ForkedProcess
from chaos.owner import VARIABLE as OWNER_VARIABLE
from tests.support.eventually import eventually


def logs_of(*workers: WorkerProcess) -> Callable[[], str]:
    """What all of them have printed; a ``describe`` for what is waited for in several processes."""
    return lambda: "\n".join(f"--- {worker.name}\n{worker.log()}" for worker in workers)


class WorkerProcess:
    """``celery -A APP worker …`` against a Redis; ready once it has sent the first heartbeat of its lease there.

    A death before that leaves no connection that its record names, so it is found when the lease runs out.

    With ``transport_only``, the app has no Orchestrator, but its transport still takes out leases.
    """

    def __init__(
        self,
        app: str,
        redis_url: str,
        *,
        name: str = "w1",
        pool: str = "solo",
        concurrency: int = 1,
        queues: str | None = None,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        prefix: str = "",
    ) -> None:
        self.name = name
        self._url = redis_url
        self._prefix = prefix
        # Also the worker's own temporary directory: a SIGKILLed one cleans up nothing.
        self._scratch = Path(tempfile.mkdtemp(prefix=f"worker-{name}-"))
        self._log = self._scratch / "log"
        self._log.touch()
        # The script, not `-m celery`: SIGHUP has Celery run the same command again, which fails for the module.
        celery = str(Path(sys.executable).with_name("celery"))
        command = [sys.executable, celery, "-A", app, "worker", "-n", f"{name}@%h", "-P", pool]
        command += ["-c", str(concurrency), "-l", "INFO", "--without-gossip", "--without-mingle"]
        command += ["-Q", queues] if queues else []
        self._command = [*command, *arguments]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "C_FORCE_ROOT": "1",
            "ORCHESTRATOR_BROKER_URL": redis_url,
            "PYTHONWARNINGS": "ignore",
            "TMPDIR": str(self._scratch),
            OWNER_VARIABLE: str(os.getpid()),
            **(environment or {}),
        }
        self._process: ForkedProcess | None = None

    def start(self, *, wait: bool = True) -> WorkerProcess:
        """Start it (again)."""
        if not wait:
            self._start()
            return self
        # One connection for as long as it is asked.
        with redis.Redis.from_url(self._url) as client:
            before = set(self._leases(client))
            self._start()
            eventually(lambda: self._is_ready(client, before), timeout_s=30, describe=self.log)
        return self

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = ForkedProcess(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _leases(self, client: redis.Redis) -> list[str]:
        raw: Any = client.zrange(f"{self._prefix}orc:leases", 0, -1)
        return [lease.decode() for lease in raw]

    def _is_ready(self, client: redis.Redis, before: set[str]) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"{self.name} stopped with {self._process.returncode}:\n{self.log()}")
        own = [lease for lease in self._leases(client) if lease not in before and f":{self.pid}#" in lease]
        return any(client.hexists(f"{self._prefix}orc:incarnation:{lease}", "client") for lease in own)

    @property
    def incarnation(self) -> str:
        """Its id in Redis; empty if it holds no lease."""
        with redis.Redis.from_url(self._url) as client:
            return next((lease for lease in self._leases(client) if f":{self.pid}#" in lease), "")

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the main process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_open(self) -> bool:
        """Whether it was started, and is not closed; it may be dead."""
        return self._process is not None and self._scratch.exists()

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Signal the main process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the main process and all its pool children, as an OOM killer or a container runtime does."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def wait(self, timeout_s: float = 10) -> int:
        """Wait until the main process has ended; returns its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=timeout_s)

    def stop(self, timeout_s: float = 30) -> int:
        """Warm shutdown; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=timeout_s)

    def __enter__(self) -> WorkerProcess:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill it if it lives, and remove what it has left."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            sys.stderr.write(f"--- {self.name}\n{self.log()[-6000:]}\n")
        self.close()
