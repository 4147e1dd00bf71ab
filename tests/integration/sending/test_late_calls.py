"""A request whose deadline passes ends in one error, whether its worker or its caller notices that first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.supervisor.processes.ready_descriptor import READABLE, becomes_ready
from tests.apps.calls_app import Order
from tests.support.askers import Askers, askers
from tests.support.eventually import eventually
from tests.support.late_caller import WAYS
from tests.support.worker_process import ROOT

#: What callers get where it is not simply the error.
ENDS = {"falls back": "DeliveryTimeout 3", "ask all": "billing=DeliveryTimeout bounded=DeliveryTimeout"}


@pytest.fixture(scope="module")
def both() -> Iterator[Askers]:
    with EmbeddedServer() as server, askers(server, "billing,bounded") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def caller(both: Askers) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.late_caller", both.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def suspended(*processes: Any) -> Iterator[None]:
    for process in processes:
        process.send_signal(SIGSTOP) if hasattr(process, "send_signal") else process.signal(SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(SIGCONT) if hasattr(process, "send_signal") else process.signal(SIGCONT)


def begin(both: Askers, caller: subprocess.Popen[str], way: str) -> None:
    both.forget()
    assert caller.stdin is not None
    said = caller.stdout
    assert said is not None
    caller.stdin.write(f"{way}\n")
    # On a machine that is slow enough, its time is over before it is begun.
    eventually(lambda: has_begun(both) or becomes_ready(said.fileno(), READABLE, 0), 20)


def has_begun(both: Askers) -> bool:
    return bool(both.redis.exists("test:begun", "test:ran"))


def ended(caller: subprocess.Popen[str]) -> str:
    assert caller.stdout is not None
    return caller.stdout.readline().strip()


def swept(both: Askers) -> dict[str, int]:
    """The counts of asks after another sweep."""
    both.sweep()
    return both.counts()


@pytest.mark.parametrize("way", list(WAYS))
def test_its_worker_notices_first(both: Askers, caller: subprocess.Popen[str], way: str) -> None:
    begin(both, caller, way)
    with suspended(caller):
        both.idle()
    assert ended(caller) == ENDS.get(way, "DeliveryTimeout")
    both.idle()
    assert both.orchestrator.dead_letters.count() == 0


@pytest.mark.parametrize("way", list(WAYS))
def test_its_caller_notices_first(both: Askers, caller: subprocess.Popen[str], way: str) -> None:
    begin(both, caller, way)
    with suspended(both.callee, both.asker):
        assert ended(caller) == ENDS.get(way, "DeliveryTimeout")
    both.idle()
    assert both.orchestrator.dead_letters.count() == 0


@pytest.mark.parametrize("first", ["worker", "sweep"])
def test_a_reply_as_a_message_says_so_too(both: Askers, first: str) -> None:
    both.forget()
    both.orchestrator.send("shop", Order(number=1, how="holds", timeout_s=1))
    eventually(lambda: has_begun(both) or both.counts().get("timeout"), 20)
    if first == "sweep":
        with suspended(both.callee):
            eventually(lambda: swept(both).get("timeout"), 20)
    (reply,) = both.replied(1)
    assert reply["error"] == f"request {reply['id']} has no reply after 1 s"
    both.idle()
    # Nobody can see from the counts which it was.
    assert {name: n for name, n in both.counts().items() if name != "budget"} == {"asked": 1, "timeout": 1}
