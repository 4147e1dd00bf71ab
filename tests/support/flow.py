"""Trips an agent's breaker, and collects events while a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator import Dead
from orchestrator.core.errors import CircuitOpen
from orchestrator.eager import flow_control
from orchestrator.telemetry import Event, attach, detach
from tests.apps import flow_app as app
from tests.support.cluster import Cluster

WAIT_S = 20


@contextmanager
def heard(*names: str) -> Iterator[list[Event]]:
    """The events of these names that happen meanwhile in this process."""
    found: list[Event] = []
    attach(found.append, *names)
    try:
        yield found
    finally:
        detach(found.append)


def trip(cluster: Cluster, agent: str = "fused") -> None:
    """Have an agent fail until its breaker opens, if it is not open already."""
    for _ in range(3):
        try:
            outcome = cluster.orchestrator.send(agent, app.Work(fails=True)).wait(WAIT_S)
        except CircuitOpen:
            return
        assert isinstance(outcome, Dead)
    raise AssertionError(f"the breaker of {agent} has not opened")


def let_open_time_pass(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, agent: str = "fused") -> None:
    """Have an open breaker of 30 s let the next message through, which is a probe."""
    if cluster.has_worker:
        cluster.redis.hset(cluster.keys.flow(agent), "until_ms", 1)
        return
    before = flow_control._now_ms
    monkeypatch.setattr(flow_control, "_now_ms", lambda: before() + 31_000)
