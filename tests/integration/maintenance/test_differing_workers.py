"""Two deployments of one agent that declare different limits are named where operators look."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.agents.command import agents
from orchestrator.cli.doctor_of_app import doctor
from orchestrator.embedded import EmbeddedServer
from orchestrator.maintenance.differing_limits import DifferingLimitsCheck
from orchestrator.registry.registry import differing_limits
from tests.apps import lanes_app
from tests.support.command_line import invoke
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    with (
        EmbeddedServer() as server,
        WorkerProcess("tests.apps.lanes_app", server.url, name="old"),
        WorkerProcess("tests.apps.lanes_app", server.url, name="new", environment={"FETCH_LIMIT": "4"}) as new,
    ):
        made = lanes_app.make(server.url)
        eventually(lambda: len([i for i in made.registry.incarnations() if "fetch" in i.agents]) == 2, 20)
        yield made
        # Of one deployment there is nothing to say.
        new.stop()
        eventually(lambda: differing_limits(made.registry.incarnations()) == [], 20)
        made.runtime.store.pool.disconnect()


def test_their_limits_are_named(orchestrator: Orchestrator) -> None:
    """Regression: the limits of the worker that registered last held without a word."""
    old, new = sorted((i.id for i in orchestrator.registry.incarnations()), key=lambda id: id.startswith("new"))
    text = f"agent fetch: its workers declare different limits, concurrency: limit=2 in {old}; limit=4 in {new}."
    shown = invoke(orchestrator.app, agents)
    assert text in shown.stderr
    (listed,) = json.loads(invoke(orchestrator.app, agents, "--json").stdout)["differing_limits"]
    assert listed == {"agent": "fetch", "policy": "concurrency", "values": [["limit=2", [old]], ["limit=4", [new]]]}
    checked = invoke(orchestrator.app, doctor)
    assert checked.exit_code == 0
    assert f"warn  declared limits: {text}" in checked.stdout
    check = DifferingLimitsCheck(lambda: differing_limits(orchestrator.registry.incarnations()))
    assert [check.run() for _ in range(3)] == [0, 1, 0]
