"""A sender in a process of its own, which a test tells what to do line by line, and may kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from chaos.forked_process import ROOT, ForkedProcess
from tests.support.process_lines import ProcessLines

#: Longest time for an answer.
_PATIENCE_S = 30.0


class SenderProcess:
    """Runs ``orchestrator.METHOD(…)`` of ``tests.apps.flow_app``; a message is given as its name and fields.

    The answer is what it returned, or the name of the error that it raised.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url

    def __enter__(self) -> SenderProcess:
        self._process = ForkedProcess(
            [sys.executable, "-m", "tests.support.sender_process"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRATOR_BROKER_URL": self._url},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._lines = ProcessLines(self._process.stdout, _PATIENCE_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def begin(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Tell it to do something."""
        assert self._process.stdin is not None
        print(json.dumps([method, args, kwargs]), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """What came of what it was told."""
        return json.loads(self._lines.next())

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Tell it to do something, and hear what came of it."""
        self.begin(method, *args, **kwargs)
        return self.answer()


def _serve() -> None:
    from orchestrator.core.errors import OrchestratorError
    from tests.apps import flow_app

    def value(said: Any) -> Any:
        return getattr(flow_app, said["message"])(**said["fields"]) if isinstance(said, dict) else said

    for line in sys.stdin:
        method, args, kwargs = json.loads(line)
        try:
            done = getattr(flow_app.orchestrator, method)(
                *map(value, args), **{name: value(said) for name, said in kwargs.items()}
            )
            answer = {"id": done.id}
        except OrchestratorError as error:
            answer = {"error": type(error).__name__}
        print(json.dumps(answer), flush=True)  # noqa: T201


def message(name: str, /, **fields: Any) -> dict[str, Any]:
    """A message as a sender process is told of it."""
    return {"message": name, "fields": fields}


if __name__ == "__main__":
    _serve()
