"""A process that gives items out, and stops before the n-th call of a script, so that a test can kill it there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from tests.support.living_agents import Page, make, reader
from tests.support.process_lines import ProcessLines
from tests.support.worker_process import ROOT

_PATIENCE_S = 30.0

#: The agents that its items go to.
AGENTS = ("a", "b")


class DistributingProcess:
    """Gives ``items`` out on a Redis, until it is about to run ``script`` for the ``number``-th time.

    ``key`` is its idempotency key.
    """

    def __init__(self, redis_url: str, items: int, script: str, number: int, key: str = "") -> None:
        self._arguments = [redis_url, str(items), script, str(number), key]

    def __enter__(self) -> DistributingProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.distributing_process", *self._arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert ProcessLines(self._process.stdout, _PATIENCE_S).next() == "there"
        return self

    def resume(self) -> int:
        """Let it go on to its end; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(timeout=_PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL it."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _main(url: str, items: str, script: str, number: str, key: str) -> None:
    orchestrator = make(url, *map(reader, AGENTS))
    distribution: Any = orchestrator.runtime.redis.distribution
    run, left = distribution._run, [int(number)]

    def stopping(call: Any) -> Any:
        left[0] -= call[0] == script
        if call[0] == script and not left[0]:
            print("there", flush=True)  # noqa: T201
            sys.stdin.read()
        return run(call)

    distribution._run = stopping
    pages = [Page(number=at) for at in range(int(items))]
    orchestrator.distribute(pages, to=list(AGENTS), idempotency_key=key or None)


if __name__ == "__main__":
    _main(*sys.argv[1:])
