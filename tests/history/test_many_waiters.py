"""Many wait for few permits while their processes are killed: none leaks or is granted twice, nobody is overtaken."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from chaos.forked_process import ROOT, ForkedProcess
from orchestrator.core.coordination.lease import Kind
from orchestrator.embedded import EmbeddedServer
from tests.history.processes import deaths_on_record
from tests.history.waiting_process import NAME, PERMITS
from tests.support.coordination_under_test import close, make
from tests.support.eventually import eventually

#: Between two kills.
_PAUSE_S = 2.0


class Processes:
    """Processes with threads that wait; one that has ended is followed by another."""

    def __init__(self, url: str, folder: Path, threads: int) -> None:
        self._url, self._folder, self._threads = url, folder, threads
        self.running: dict[str, ForkedProcess] = {}
        #: When each was killed, found dead, or declared dead.
        self.ended: dict[str, float] = {}
        self._pids: dict[int, str] = {}

    def start(self, count: int) -> None:
        for _ in range(count):
            name = f"p{len(self.ended) + len(self.running)}"
            arguments = [self._url, str(self._folder / f"{name}.jsonl"), name, str(self._threads)]
            self.running[name] = ForkedProcess(
                [sys.executable, "-m", "tests.history.waiting_process", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._pids[self.running[name].pid] = name

    def kill(self, name: str) -> None:
        self.ended[name] = monotonic()
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        for name in list(self.running):
            self.kill(name)

    def replace_ended(self) -> None:
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.ended[name] = monotonic()
                del self.running[name]
                self.start(1)

    def note_deaths(self, deaths: Iterable[tuple[int, float]]) -> None:
        """What a process held, others may hold from when it was declared dead, whenever it ends."""
        for pid, died in deaths:
            if name := self._pids.get(pid):
                self.ended[name] = min(died, self.ended.get(name, inf))

    def lines(self) -> Iterator[dict[str, Any]]:
        for file in self._folder.glob("*.jsonl"):
            for line in file.read_text().splitlines():
                if line.endswith("}"):
                    yield json.loads(line)


def history_of(processes: Processes) -> list[dict[str, Any]]:
    """Each grant: its fence, when it was asked for and seen in line, and from when to when it was certainly held."""
    calls: dict[tuple[str, int], dict[str, Any]] = {}
    returns: dict[tuple[str, int], float] = {}
    fences: dict[tuple[str, int], int] = {}
    released: dict[tuple[str, int], float] = {}
    for line in sorted(processes.lines(), key=lambda one: one["at"]):
        if "error" in line:
            continue
        key = line["process"], line["number"]
        if line.get("act") == "release":
            released[line["process"], line["argument"]] = line["at"]
        elif "act" in line:
            calls[key] = line
        else:
            returns[key] = line["at"]
            fences[key] = line["result"]
    found = []
    for key, call in calls.items():
        if call["act"] != "serve" or key not in returns:
            continue
        process, fence, arriving = key[0], fences[key], (key[0], call["argument"])
        found.append(
            {
                "fence": fence,
                "asked": calls[arriving]["at"],
                "in_line": returns.get(arriving, inf),
                "from": returns[key],
                "to": max(
                    returns[key],
                    min(released.get((process, fence), inf), processes.ended.get(process, inf)),
                ),
            }
        )
    return sorted(found, key=lambda grant: grant["fence"])


def most_at_once(grants: list[dict[str, Any]]) -> int:
    moments = sorted([(one["from"], 1) for one in grants] + [(one["to"], -1) for one in grants])
    held = most = 0
    for _, change in moments:
        held += change
        most = max(most, held)
    return most


def overtaken(grants: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Pairs of which the first was granted first, although the second was in line before the first one asked."""
    found, seen, by = [], inf, 0
    for one in reversed(grants):
        if seen < one["asked"]:
            found.append((one["fence"], by))
        if one["in_line"] < seen:
            seen, by = one["in_line"], one["fence"]
    return found


def test_the_judge_finds_what_it_looks_for() -> None:
    def grant(fence: int, asked: float, in_line: float, begin: float, end: float) -> dict[str, Any]:
        return {"fence": fence, "asked": asked, "in_line": in_line, "from": begin, "to": end}

    good = [grant(1, 0, 1, 2, 3), grant(2, 0.5, 0.9, 3, 4), grant(3, 2, inf, 5, inf)]
    assert (most_at_once(good), overtaken(good)) == (1, [])
    assert overtaken([grant(1, 2, 3, 4, 5), grant(2, 0, 1, 5, 6)]) == [(1, 2)]
    assert most_at_once([grant(1, 0, 1, 2, 4), grant(2, 0, 1, 3, 5)]) == 2


def test_what_a_process_holds_that_was_declared_dead_is_free(tmp_path: Path) -> None:
    lines = [
        {"process": "p0", "number": 0, "at": 1.0, "name": NAME, "act": "arrive"},
        {"process": "p0", "number": 1, "at": 1.0, "name": NAME, "act": "serve", "argument": 0},
        {"process": "p0", "number": 1, "at": 2.0, "result": 7},
        {"process": "p0", "number": 2, "at": 9.0, "name": NAME, "act": "release", "argument": 7},
    ]
    (tmp_path / "p0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    processes = Processes("", tmp_path, 1)
    assert [one["to"] for one in history_of(processes)] == [9.0]
    processes._pids[4711] = "p0"
    for died, to in ((4.0, 4.0), (1.5, 2.0)):
        processes.note_deaths([(4711, died), (4712, 0.0)])
        assert [one["to"] for one in history_of(processes)] == [to]


@pytest.mark.parametrize(
    ("count", "threads", "seconds"),
    [
        pytest.param(3, 20, 5.0, id="short"),
        pytest.param(10, 100, 60.0, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_no_permit_leaks_and_nobody_is_overtaken(tmp_path: Path, count: int, threads: int, seconds: float) -> None:
    with EmbeddedServer() as server:
        made = make(server.url)
        leases: Any = made.coordination._leases()
        processes = Processes(server.url, tmp_path, threads)

        def state() -> Any:
            return leases.read(Kind.SEMAPHORE, NAME)

        try:
            processes.start(count)
            eventually(lambda: (known := state()) and known.waiting > count * threads / 2, 90)
            until, most = monotonic() + seconds, 0
            while monotonic() < until:
                processes.kill(random.choice(sorted(processes.running)))
                processes.start(1)
                again = min(until, monotonic() + _PAUSE_S)
                while monotonic() < again:
                    # As any worker's manager does.
                    made.runtime.redis.sweep()
                    most = max(most, len(state().holders))
                    threading.Event().wait(0.05)
                processes.replace_ended()
            # On a busy machine they take turns seldom.
            eventually(lambda: len(history_of(processes)) > 20 * seconds, 60)
            processes.kill_all()
            processes.note_deaths(deaths_on_record(server.url))
            with made.monitors.session():

                def nothing_is_held() -> bool:
                    made.runtime.redis.sweep()
                    known = state()
                    return not known.holders and known.waiting == 0

                eventually(nothing_is_held, 60)
                permits = [made.semaphore(NAME, PERMITS).acquire() for _ in range(PERMITS)]
                assert len({permit.fence for permit in permits}) == PERMITS
        finally:
            processes.kill_all()
            close(made)
    grants = history_of(processes)
    print(f"{len(grants)} grants, {len(processes.ended)} processes, {most} permits at once")  # noqa: T201
    assert most <= PERMITS
    assert most_at_once(grants) <= PERMITS
    assert overtaken(grants) == []
