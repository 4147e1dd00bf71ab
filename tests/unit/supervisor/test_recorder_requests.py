"""What a supervisor sends to its death recorder when a worker has ended."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.health import files
from orchestrator.supervisor.processes.oom import OomKill
from orchestrator.supervisor.processes.running import Running
from orchestrator.supervisor.reading.definition import Kind
from orchestrator.supervisor.recorder_link import RecorderLinks
from orchestrator.supervisor.running_workers import RunningWorker


class RecordedRequests:
    """A recorder that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def send(self, request: dict[str, Any], _running: object = None) -> None:
        self.requests.append(request)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RecordedRequests:
    for name in files.DIRECTORY_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "none"))
    return RecordedRequests()


@pytest.fixture
def links(recorder: RecordedRequests) -> RecorderLinks:
    nothing: Any = None
    links = RecorderLinks("", "", nothing, nothing, nothing)
    known: Any = {"shop": recorder}
    links._by_app = known
    return links


def died(links: RecorderLinks, status: int, *, asked_for: bool = False, oom: OomKill = OomKill.NO) -> None:
    command: Any = SimpleNamespace(kind=Kind.WORKER, app="shop", node="w@%h", environment={})
    output: Any = None
    running = Running("w", command, output, pid=4711, born=1)
    words = () if asked_for else ("bye",)
    end: Any = SimpleNamespace(asked_for=asked_for, oom=oom, last_words=words, text=f"end {status}")
    links.died(running, end, status)


@pytest.mark.parametrize(
    ("status", "asked_for", "oom", "reason", "error"),
    [
        (0, True, OomKill.NO, "deployed", "end 0"),
        # A worker that leaves has ended its incarnation itself, so there is nothing to record of it.
        (0, False, OomKill.NO, "crashed", "end 0: bye"),
        (3, False, OomKill.NO, "crashed", "end 3: bye"),
        (-signal.SIGKILL, False, OomKill.PERHAPS, "killed", "end -9"),
        (-signal.SIGKILL, False, OomKill.YES, "oom", "end -9"),
    ],
)
def test_the_reason_is_how_its_process_has_ended(
    links: RecorderLinks,
    recorder: RecordedRequests,
    status: int,
    asked_for: bool,
    oom: OomKill,
    reason: str,
    error: str,
) -> None:
    died(links, status, asked_for=asked_for, oom=oom)
    (request,) = recorder.requests

    assert (request["reason"], request["error"], request["saw_end"]) == (reason, error, True)


def test_of_a_worker_of_an_earlier_supervisor_nobody_has_seen_the_end(
    links: RecorderLinks, recorder: RecordedRequests
) -> None:
    links.died_before(RunningWorker(4711, 1, 2.0, "shop", "w@%h", {}), "w@h:4711#1")
    (request,) = recorder.requests

    assert (request["reason"], request["saw_end"]) == ("killed", False)
