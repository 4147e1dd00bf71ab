"""Maps whose items stop in the middle: the moves of the state machine that chance seldom makes in this order."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.core.workflows.run_state import RunState
from orchestrator.embedded import EmbeddedServer
from tests.integration.workflows.test_run_machine import Running

TASK: dict[str, Any] = {"kind": Kind.TASK, "after": [], "when": When.ALL_HANDLED, "undo": False, "options": {}}
MAP = {**TASK, "kind": Kind.MAP, "after": [0], "options": {"over": "0", "path": [], "says": "it", "limit": 1}}


@pytest.mark.parametrize("budget", [1, 200])
@pytest.mark.parametrize("how", ["pause", "failure", "cancel", "taken back"])
def test_a_map_that_stops_in_the_middle_holds_up_nothing(redis_server: EmbeddedServer, how: str, budget: int) -> None:
    with Redis.from_url(redis_server.url) as client:
        Running.server = client
        machine = Running()
        machine.start(steps=[TASK, MAP, TASK], on_failure=OnFailure.STOP, budget=budget, deadline=None)
        run = machine.run
        _advance(machine)
        machine.handle(result=[1, 2, 3], queue="q0")
        _advance(machine)
        if how != "taken back":
            run.claim("q1")
        if how == "failure":
            run.claim("q2")
            run.settle(next(held for held in run.held() if held[0] == "q2"), "dead", None)
        else:
            run.control("cancel" if how == "cancel" else "pause", "0")
        _advance(machine)
        if how != "taken back":
            run.settle(run.held()[0], "handled", 1)
            _advance(machine)
        machine.teardown()
        ends = {"failure": RunState.FAILED, "cancel": RunState.CANCELLED}
        assert run.rule.state is ends.get(how, RunState.COMPLETED)
        assert run.rule.maps["1"][:2] == ([1, 0] if how in ends else [3, 0])


def _advance(machine: Running) -> None:
    while machine.run.rule.agenda:
        machine.run.advance()
