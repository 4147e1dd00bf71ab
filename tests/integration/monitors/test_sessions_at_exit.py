"""A process that ends without closing its sessions: they end with it, and nobody has to find that out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator import Orchestrator
from orchestrator.embedded import EmbeddedServer
from tests.support.coordination_under_test import close, make
from tests.support.session_process import ENDS
from tests.support.worker_process import ROOT

_PATIENCE_S = 30.0

#: So that a session of which nobody hears is not declared dead while a test runs.
_PATIENT = {"ORCHESTRATOR_LEASE_S": "60", "ORCHESTRATOR_HEARTBEAT_TIMEOUT_S": "40"}


@contextmanager
def process(url: str, how: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.session_process", url, "a", how],
        env={**os.environ, "PYTHONPATH": str(ROOT), **_PATIENT},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def go_on(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    print(file=started.stdin, flush=True)


def deaths(orchestrator: Orchestrator) -> list[tuple[str, str, str]]:
    return [(death.incarnation, death.reason, death.by) for death in orchestrator.registry.deaths()]


@pytest.mark.parametrize("how", sorted(ENDS.keys() - {"fork"}))
def test_what_a_session_holds_is_free_when_its_process_has_ended(redis_url: str, how: str) -> None:
    orchestrator = make(redis_url)
    with process(redis_url, how) as started:
        session = line(started)
        [state] = orchestrator.coordination.leases()
        assert [holder.owner for holder in state.holders] == [session]
        go_on(started)
        started.wait(_PATIENCE_S)
        assert deaths(orchestrator) == [(session, "drained", session)]
        [state] = orchestrator.coordination.leases()
        assert not state.holders
    close(orchestrator)


def test_a_forked_child_that_ends_takes_no_session_of_its_parent_along(redis_url: str) -> None:
    orchestrator = make(redis_url)
    with process(redis_url, "fork") as started:
        session = line(started)
        go_on(started)
        assert line(started) == "forked"
        assert deaths(orchestrator) == []
        [state] = orchestrator.coordination.leases()
        assert [holder.owner for holder in state.holders] == [session]
        go_on(started)
        started.wait(_PATIENCE_S)
        assert deaths(orchestrator) == [(session, "drained", session)]
    close(orchestrator)


def test_a_process_ends_although_redis_is_away() -> None:
    with EmbeddedServer() as server, process(server.url, "exit") as started:
        assert line(started).startswith("session@")
        server.kill()
        go_on(started)
        assert started.wait(_PATIENCE_S) == 3
