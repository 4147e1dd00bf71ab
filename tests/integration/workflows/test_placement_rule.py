"""Placement by the scripts and by the rule, in slices of all sizes; see ``runs_under_test.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.core.workflows.run_state import RunState
from orchestrator.embedded import EmbeddedServer
from tests.support.agents_under_test import AGENTS, WITHIN_MS, place_of
from tests.support.runs_under_test import UID, RunUnderTest, plan_of

BUDGETS = pytest.mark.parametrize("budget", [1, 2, 3, 200])
LIST = {"over": "0", "path": [], "says": "it"}


@pytest.fixture
def server(redis_server: EmbeddedServer) -> Iterator[Any]:
    with Redis.from_url(redis_server.url) as client:
        yield client


def _step(kind: Kind, after: list[int], needs: str = "", **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"when": When.ALL_HANDLED, "undo": False, "options": {}}
    return {**plain, "kind": kind, "after": after, "needs": needs, **more}


def _run(server: Any, steps: list[dict[str, Any]], budget: int = 200, *agents: str) -> RunUnderTest:
    run = RunUnderTest(server, plan_of(steps), OnFailure.STOP, budget)
    for agent in agents:
        run.agents.lives(agent, 1)
    run.start(None)
    _advance(run)
    return run


def _advance(run: RunUnderTest) -> None:
    while run.rule.agenda:
        run.advance()


def _where(run: RunUnderTest) -> Counter[str]:
    """How many steps are out at each agent."""
    places = [place_of(state) for state in run.states().values()]
    return Counter(AGENTS[place] for place in places if place is not None)


def _list_of(run: RunUnderTest, items: int) -> None:
    """The first step is handled, with a list of so many items."""
    run.claim("q0")
    [held] = [held for held in run.held() if held[3] == "0"]
    run.settle(held, "handled", list(range(items)))
    _advance(run)


@BUDGETS
def test_a_map_is_spread_evenly_over_agents_that_are_alike(server: Any, budget: int) -> None:
    run = _run(server, [_step(Kind.TASK, []), _step(Kind.MAP, [0], "ever", options=LIST)], budget, *AGENTS)
    _list_of(run, 30)
    assert _where(run) == {"a0": 10, "a1": 10, "a2": 10}


def test_an_agent_with_more_slots_gets_more(server: Any) -> None:
    run = _run(server, [_step(Kind.TASK, []), _step(Kind.MAP, [0], "ever", options=LIST)])
    run.agents.lives("a0", 1)
    run.agents.lives("a1", 3)
    _list_of(run, 40)
    assert _where(run) == {"a0": 10, "a1": 30}


@BUDGETS
def test_unbegun_steps_of_a_lost_agent_are_placed_again(server: Any, budget: int) -> None:
    run = _run(server, [_step(Kind.TASK, []), _step(Kind.MAP, [0], "ever", options=LIST)], budget, "a0", "a1")
    _list_of(run, 12)
    run.claim("a0")
    run.claim("a0")
    # Of what it has claimed, the first is begun, and comes back with a death; the second only comes back.
    first, second = [held for held in run.held() if held[0] == "a0"]
    run.requeue(second)
    run.die()
    run.agents.dies("a0", was_fenced=False)
    run.agents.lives("a2", 1)
    run.place_again()
    _advance(run)
    assert _where(run) == {"a0": 1, "a1": 6, "a2": 5}
    assert place_of(run.states()[first[3]]) == 0
    for agent in ("a1", "a2", "a0"):
        while run.claim(agent):
            pass
    for held in run.held():
        run.settle(held, "handled", 1)
        _advance(run)
    assert run.rule.state is RunState.COMPLETED
    run.check_ledgers()
    run.history.over(run.rule.counts, run.rule.states, run.rule.state)


@BUDGETS
def test_what_no_living_agent_offers_waits_for_one(server: Any, budget: int) -> None:
    run = _run(server, [_step(Kind.TASK, [], "ever"), _step(Kind.TASK, [0])], budget)
    assert (run.rule.states["0"], run.rule.counts["open"]) == ("n", 1)
    run.place_again()
    assert run.rule.states["0"] == "n"
    run.agents.lives("a1", 1)
    run.place_again()
    assert _where(run) == {"a1": 1}
    assert server.zcard(run.keys.unplaced_runs) == 1
    run.place_again()
    assert server.zcard(run.keys.unplaced_runs) == 0


def test_what_is_not_placed_in_time_is_dead(server: Any) -> None:
    run = _run(server, [_step(Kind.TASK, [], "soon")])
    run.time_passes(WITHIN_MS - 1)
    assert run.rule.states["0"] == "n"
    run.time_passes(1)
    assert run.rule.outcomes["0"] == {
        "outcome": "dead", "reason": "unplaced", "error": "no living agent offers ocr", "attempts": 0,
    }  # fmt: skip
    assert run.rule.state is RunState.FAILED
    # It is retried, and placed.
    run.agents.lives("a2", 1)
    run.retry_step("0")
    assert _where(run) == {"a2": 1}


def test_an_ended_run_leaves_no_trace_of_its_placements(server: Any) -> None:
    run = _run(server, [_step(Kind.TASK, [], "ever")], 200, "a0")
    assert server.zrange(run.keys.runs_placed("a0"), 0, -1) == [UID.encode()]
    run.claim("a0")
    run.settle(run.held()[0], "handled", 1)
    assert run.rule.state is RunState.COMPLETED
    assert not server.exists(run.keys.runs_placed("a0"))


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_an_unplaced_step_is_parked_or_cancelled(server: Any, action: str) -> None:
    run = _run(server, [_step(Kind.TASK, [], "soon")])
    run.control(action)
    assert run.rule.states["0"] == {"pause": "r", "cancel": "c"}[action]
    run.time_passes(WITHIN_MS)
    run.control("resume")
    assert run.rule.states["0"] == {"pause": "n", "cancel": "c"}[action]
