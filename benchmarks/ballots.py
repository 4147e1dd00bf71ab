"""How soon a ballot of 100 voters is decided after the handler of the last vote that it needs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from benchmarks.ballots_app import VOTERS, Move, make
from orchestrator import Majority

ROOT = Path(__file__).parent.parent

_WORKERS = 2
_PATIENCE_S = 60.0


@contextlib.contextmanager
def _workers(url: str) -> Iterator[None]:
    celery = str(Path(sys.executable).with_name("celery"))
    command = [sys.executable, celery, "-A", "benchmarks.ballots_app", "worker", "-P", "solo", "-l", "ERROR"]
    environment = {**os.environ, "ORCHESTRATOR_BROKER_URL": url, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"}
    running = [
        subprocess.Popen(
            [*command, "-n", f"v{number}@%h", "--without-gossip", "--without-mingle"],
            env=environment, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number in range(_WORKERS)
    ]  # fmt: skip
    try:
        yield
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def decided_ms(url: str, ballots: int) -> list[float]:
    """From the end of the last needed vote's handler until whoever waits has the decision, in ms."""
    orchestrator, client = make(url), redis.Redis.from_url(url, socket_timeout=_PATIENCE_S)
    times = []
    try:
        with _workers(url):
            until = time.monotonic() + _PATIENCE_S
            while client.zcard(orchestrator.runtime.store.keys.leases) < _WORKERS and time.monotonic() < until:
                time.sleep(0.05)
            # Those that have just joined consume a moment later.
            time.sleep(2.0)
            for number in range(ballots):
                ballot = orchestrator.propose(Move(n=number), VOTERS, Majority(), timeout_s=_PATIENCE_S)
                decision = ballot.wait(_PATIENCE_S)
                now = time.monotonic()
                assert decision.accepted
                ended = _ended_at(client, number, len(VOTERS))
                times.append(1000 * (now - max(ended[voter] for voter in decision.votes)))
    finally:
        client.close()
        orchestrator.app.close()
    return times


def _ended_at(client: Any, number: int, count: int) -> dict[str, float]:
    """When each voter's handler ended, once all have."""
    until = time.monotonic() + _PATIENCE_S
    while client.hlen(f"bench:votes:{number}") < count and time.monotonic() < until:
        time.sleep(0.02)
    return {voter.decode(): float(at) for voter, at in client.hgetall(f"bench:votes:{number}").items()}
