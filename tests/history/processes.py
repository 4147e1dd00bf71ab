"""Processes that use coordination while they are killed, stopped and cut off, and what they write down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from orchestrator.embedded import EmbeddedServer
from tests.support.eventually import eventually
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_process import ROOT

RUN_S = 40.0
_PROCESSES = 6


class Clients:
    """The processes, and what they have written down."""

    def __init__(self, module: str, url: str, through: str, folder: Path) -> None:
        self._module, self._url, self._through, self._folder = module, url, through, folder
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
            [sys.executable, "-m", self._module, *arguments],
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

    def operations(self) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[tuple[str, int], dict[str, Any]]]:
        """The calls, and their returns, each by process and number."""
        calls: dict[tuple[str, int], dict[str, Any]] = {}
        returns: dict[tuple[str, int], dict[str, Any]] = {}
        for line in self.lines():
            key = line["process"], line["number"]
            (returns if "act" not in line else calls)[key] = line
        return calls, returns


def run(module: str, folder: Path) -> Clients:
    """Run processes of a module for a while; returns what they have written down."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    with EmbeddedServer() as server, TcpProxy(server.url) as proxy:
        clients = Clients(module, server.url, proxy.url, folder)
        try:
            for _ in range(_PROCESSES):
                clients.start()
            eventually(lambda: len(list(folder.glob("*.jsonl"))) == _PROCESSES, timeout_s=60)
            until = monotonic() + RUN_S
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
    return clients


def _wait(seconds: float) -> None:
    """Let what was done take effect."""
    until = monotonic() + seconds
    eventually(lambda: monotonic() >= until, timeout_s=seconds + 5)
