"""A candidate of an election in a process of its own, which a test may kill.

``python -m tests.support.candidate_process URL ELECTION`` campaigns, writes its term's number, and says for each line
that it reads whether it still leads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from threading import Event
from types import TracebackType

from orchestrator import BrokerUnavailable, LeaseLost
from tests.support.process_lines import ProcessLines
from tests.support.worker_process import ROOT

_PATIENCE_S = 40.0

#: Silence after which a candidate's death may be assumed: short, so that tests may wait for it, but not so short that a
#: living one is silent for as long on a machine with much to do.
LEASE_S = 3.0


class CandidateProcess:
    """One that campaigns until it leads."""

    def __init__(self, url: str, election: str, **settings: float) -> None:
        self._arguments = [url, election]
        self._settings = {
            f"ORCHESTRATOR_{name.upper()}": str(value) for name, value in {"lease_s": LEASE_S, **settings}.items()
        }

    def __enter__(self) -> CandidateProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.candidate_process", *self._arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **self._settings},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines = ProcessLines(self._process.stdout, _PATIENCE_S)
        assert self._lines.next() == "campaigns"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def term(self) -> int:
        """The number of its term, once it leads."""
        return int(self._lines.next())

    def leads(self) -> bool:
        """Whether its term goes on, as soon as Redis says so."""
        assert self._process.stdin is not None
        print("?", file=self._process.stdin, flush=True)
        return self._lines.next() == "leads"

    def kill(self) -> None:
        """SIGKILL it."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)


def _main(url: str, election: str) -> None:
    from tests.support.coordination_under_test import make

    orchestrator = make(url)
    with orchestrator.monitors.session():
        print("campaigns", flush=True)  # noqa: T201
        leadership = orchestrator.election(election).campaign(wait_s=600)
        print(leadership.number, flush=True)  # noqa: T201
        for _ in sys.stdin:
            print(_answer(leadership.check), flush=True)  # noqa: T201


def _answer(check: object) -> str:
    assert callable(check)
    while True:
        try:
            check()
        except LeaseLost:
            return "lost"
        except BrokerUnavailable:
            Event().wait(0.1)
        else:
            return "leads"


if __name__ == "__main__":
    _main(*sys.argv[1:])
