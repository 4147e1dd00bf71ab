"""Histories of processes that are killed, stopped and cut off are those of a mutex, a semaphore and an election."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.history.linearizability import Operation, find_violation
from tests.history.models import Counter, Election, Permits
from tests.support.eventually import eventually
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_process import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

_RUN_S = 40.0
_PROCESSES = 6


class Clients:
    """The processes, and what they have written down."""

    def __init__(self, url: str, through: str, folder: Path) -> None:
        self._url, self._through, self._folder = url, through, folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._count = 0
        #: When a process was stopped or killed: what it held may be released from then on.
        self.struck: dict[str, list[float]] = {}

    def start(self) -> None:
        self._count += 1
        name = f"p{self._count}"
        # One in three is behind the network that is cut.
        through = self._through if self._count % 3 == 0 else self._url
        arguments = [self._url, str(self._folder / f"{name}.jsonl"), name, through]
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.history.client", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRATOR_LEASE_S": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def strike(self, name: str, number: signal.Signals) -> None:
        self.struck.setdefault(name, []).append(monotonic())
        self.running[name].send_signal(number)
        if number is signal.SIGKILL:
            self.running.pop(name).wait()

    def close(self) -> None:
        for name in list(self.running):
            self.strike(name, signal.SIGKILL)

    def lines(self) -> Iterator[dict[str, Any]]:
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                if line.endswith("}"):
                    yield json.loads(line)


def history_of(clients: Clients) -> list[Operation]:
    """The operations. What was granted and never released in order may have ended at any time after that."""
    calls: dict[tuple[str, int], dict[str, Any]] = {}
    returns: dict[tuple[str, int], dict[str, Any]] = {}
    for line in clients.lines():
        key = line["process"], line["number"]
        (returns if "act" not in line else calls)[key] = line
    history: list[Operation] = []
    releases = {key: call for key, call in calls.items() if call["act"] in ("release", "resign")}
    released = {(call["name"], call["argument"]) for key, call in releases.items() if key in returns}
    for key, call in calls.items():
        answer = returns.get(key)
        if (answer is not None and answer["result"] == "taken") or (answer is None and key in releases):
            continue
        ended = inf if answer is None else answer["at"]
        result = None if answer is None else answer["result"]
        name, act = call["name"], call["act"]
        history.append(Operation(call["process"], name, act, call["argument"], result, call["at"], ended))
        grants = act in ("acquire", "campaign") and result is not None
        if grants and (name, result) not in released:
            end = "resign" if act == "campaign" else "release"
            history.append(Operation(call["process"], name, end, result, None, ended))
    return history


@pytest.fixture
def history(tmp_path: Path) -> list[Operation]:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    with EmbeddedServer() as server, TcpProxy(server.url) as proxy:
        clients = Clients(server.url, proxy.url, tmp_path)
        try:
            for _ in range(_PROCESSES):
                clients.start()
            eventually(lambda: len(list(tmp_path.glob("*.jsonl"))) == _PROCESSES, timeout_s=60)
            until = monotonic() + _RUN_S
            while monotonic() < until:
                name = chance.choice(sorted(clients.running))
                act = chance.choice(("kill", "stop", "cut"))
                if act == "kill":
                    clients.strike(name, signal.SIGKILL)
                    clients.start()
                elif act == "stop":
                    clients.strike(name, signal.SIGSTOP)
                    _wait(chance.choice((0.5, 4.0)))
                    clients.strike(name, signal.SIGCONT)
                else:
                    proxy.cut()
                    _wait(chance.choice((0.5, 3.0)))
                    proxy.heal()
                _wait(0.5)
        finally:
            clients.close()
        return history_of(clients)


def _wait(seconds: float) -> None:
    """Let what was done take effect."""
    until = monotonic() + seconds
    eventually(lambda: monotonic() >= until, timeout_s=seconds + 5)


def test_every_grant_is_one_that_can_be_put_in_order(history: list[Operation]) -> None:
    by_name: dict[str, list[Operation]] = {}
    for operation in history:
        by_name.setdefault(operation.name, []).append(operation)
    granted = {name: sum(o.act in ("acquire", "campaign") for o in ops) for name, ops in by_name.items()}
    assert all(granted[name] > 30 for name in ("lease", "semaphore", "election")), granted
    for name, model in (("lease", Permits()), ("semaphore", Permits(2)), ("election", Election())):
        violation = find_violation(by_name[name], model)
        assert violation is None, str(violation)
    violation = find_violation(by_name["checked"], Counter())
    assert violation is None, f"with tokens, the storage loses nothing: {violation}"
