"""A holder that is stopped for longer than its limit, and writes when it goes on: what its token is for.

With tokens the storage refuses its late write, and the history is that of a counter. Without them an increment is lost,
and the checker finds that: it would find it in the other histories, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.history.linearizability import Operation, find_violation
from tests.history.models import Counter
from tests.history.processes import Clients
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT


def holder(url: str, folder: Path, name: str, counter: str, *, stops: bool) -> subprocess.Popen[bytes]:
    """A process that increments the counter under a lease; one that ``stops`` does so after it has read it."""
    arguments = [url, str(folder / f"{name}.jsonl"), name, counter, "stops" if stops else ""]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.history.paused_holder", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has stopped itself."""
    return bool(os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT))


def history_of(url: str, folder: Path, counter: str) -> list[Operation]:
    """What both have written down."""
    clients = Clients("", url, url, folder)
    calls, returns = clients.operations()
    return [
        Operation(
            call["process"], call["name"], call["act"], call["argument"], answer["result"], call["at"], answer["at"]
        )
        for key, call in calls.items()
        if (answer := returns[key]) and call["name"] == counter
    ]


@pytest.mark.parametrize("counter", ["checked", "unchecked"])
def test_a_holder_that_was_stopped_writes_late(tmp_path: Path, counter: str) -> None:
    with EmbeddedServer() as server:
        late = holder(server.url, tmp_path, "late", counter, stops=True)
        try:
            eventually(lambda: is_stopped(late), 30)
            # It waits in line until the limit of the other is over.
            assert holder(server.url, tmp_path, "next", counter, stops=False).wait(30) == 0
            late.send_signal(signal.SIGCONT)
            assert late.wait(30) == 0
        finally:
            late.kill()
            late.wait()
        history = history_of(server.url, tmp_path, counter)
    first, second = sorted(history, key=lambda one: one.invoked)
    assert (first.process, second.process) == ("late", "next")
    assert first.argument < second.argument, "the later one has the larger token"
    assert first.returned > second.returned
    violation = find_violation(history, Counter())
    if counter == "checked":
        assert (first.result, second.result) == ("refused", 1)
        assert violation is None, str(violation)
    else:
        assert (first.result, second.result) == (1, 1)
        assert violation is not None, "an increment is lost, and nobody sees it"
        assert violation.name == "unchecked"
