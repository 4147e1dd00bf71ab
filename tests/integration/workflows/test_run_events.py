"""Events of runs, in eager mode and on Redis alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.registry.gauges import read_gauges
from orchestrator.telemetry import Event, attach, detach
from orchestrator.telemetry.events import contract
from tests.apps import workflows_app
from tests.integration.workflows.conftest import waits

NAMES = tuple(event for event in contract() if event.startswith("workflow."))


@pytest.fixture
def seen() -> Iterator[list[Event]]:
    events: list[Event] = []
    attach(events.append, *NAMES)
    yield events
    detach(events.append)


def test_the_events_of_a_run(orchestrator: Orchestrator, seen: list[Event]) -> None:
    run = orchestrator.workflows.start(waits(), workflow_id="w1")
    run.pause()
    run.pause()
    run.resume()
    run.post("approved")
    names = ["workflow.started", "workflow.paused", "workflow.resumed", "workflow.ended"]
    assert [event.name for event in seen] == names
    about: dict[str, Any] = {"workflow": "waits", "id": "w1", "uid": run.uid}
    assert [event.metadata for event in seen] == [about, about, about, {**about, "state": "completed"}]
    assert seen[-1].measurements["duration_s"] >= 0


def test_a_cancelled_run_ends_once(orchestrator: Orchestrator, seen: list[Event]) -> None:
    run = orchestrator.workflows.start(waits())
    orchestrator.workflows.start(waits(), workflow_id=run.id)
    run.cancel()
    run.cancel()
    assert [event.name for event in seen] == ["workflow.started", "workflow.cancelled", "workflow.ended"]
    assert seen[-1].metadata["state"] == "cancelled"


def test_open_runs_are_a_gauge(redis_url: str) -> None:
    orchestrator = workflows_app.make(redis_url)
    first, second = orchestrator.workflows.start(waits()), orchestrator.workflows.start(waits())

    def count() -> Any:
        gauges = read_gauges(orchestrator.runtime.store, orchestrator.registry)
        return {gauge.name: gauge.values for gauge in gauges}["workflow_runs_open"]

    assert count() == {"waits": 2}
    first.cancel()
    assert count() == {"waits": 1}
    second.post("approved")
    assert count() == {}
