"""A retry by the scripts and by the rule, in slices of all sizes; see ``runs_under_test.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.core.workflows.run_state import RunState
from orchestrator.embedded import EmbeddedServer
from tests.support.runs_under_test import QUEUES, UID, RunUnderTest, plan_of

MAP = {"over": "0", "path": [], "says": "it", "limit": 2}
BUDGETS = pytest.mark.parametrize("budget", [1, 2, 3, 200])


@pytest.fixture
def server(redis_server: EmbeddedServer) -> Iterator[Any]:
    with Redis.from_url(redis_server.url) as client:
        yield client


def _step(kind: Kind, after: list[int], options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": kind, "after": after, "when": When.ALL_HANDLED, "undo": False, "options": options or {}}


def _mapped(server: Any, budget: int) -> RunUnderTest:
    """A run whose map has failed: of its 5 items, two were not handled."""
    steps = [_step(Kind.TASK, []), _step(Kind.MAP, [0], MAP), _step(Kind.TASK, [1])]
    run = RunUnderTest(server, plan_of(steps), OnFailure.STOP, budget)
    run.start(None)
    _drain(run, {"0": "handled", "1.1": "dead", "1.4": "expired"})
    assert (run.rule.state, run.rule.maps["1"]) == (RunState.FAILED, [5, 2, 5, 5])
    return run


def _drain(run: RunUnderTest, outcomes: dict[str, str] | None = None) -> None:
    """Advance, claim and settle until nothing is left; what is not named is handled."""
    for _ in range(60):
        while run.rule.agenda:
            run.advance()
        claimed = [queue for queue in QUEUES if run.claim(queue)]
        for held in run.held():
            run.settle(held, (outcomes or {}).get(held[3], "handled"), [1, 2, 3, 4, 5])
        if not claimed and not run.rule.agenda:
            return


@BUDGETS
def test_the_failed_items_of_a_map_begin_again(server: Any, budget: int) -> None:
    run = _mapped(server, budget)
    run.retry_step("1")
    _drain(run)
    assert (run.rule.state, run.rule.maps["1"]) == (RunState.COMPLETED, [5, 0, 5, 5])
    run.check_ledgers()
    run.history.over(run.rule.counts, run.rule.states, run.rule.state)


@BUDGETS
def test_a_map_fails_again_and_is_retried_again(server: Any, budget: int) -> None:
    run = _mapped(server, budget)
    run.retry_step("1")
    _drain(run, {"1.4": "dead"})
    assert (run.rule.state, run.rule.maps["1"]) == (RunState.FAILED, [5, 1, 5, 5])
    run.retry_step("1")
    _drain(run)
    assert run.rule.state is RunState.COMPLETED


@BUDGETS
@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_a_retry_is_stopped_in_its_middle(server: Any, budget: int, action: str) -> None:
    run = _mapped(server, budget)
    run.retry_step("1")
    run.control(action)
    run.control("resume")
    _drain(run)
    ended = RunState.COMPLETED if action == "pause" else RunState.CANCELLED
    assert run.rule.state is ended
    assert "m" not in [state[0] for state in run.rule.states.values()]
    run.history.over(run.rule.counts, run.rule.states, run.rule.state)


def test_an_item_that_is_about_to_be_sent_again_is_not_replayed(server: Any) -> None:
    """Its letter and its new message would both be out, and the one that ends first would be its outcome."""
    run = _mapped(server, 1)
    run.retry_step("1")
    assert run.rule.states["1.1"] == "d"
    assert run.rule.why_not_replayed("1.1") == "step goes on"
    run.replay("1.1")
    assert "1.1" in run.letters
    _drain(run)
    assert (run.rule.state, run.rule.maps["1"]) == (RunState.COMPLETED, [5, 0, 5, 5])
    run.check_ledgers()


@pytest.mark.parametrize("outcome", ["handled", "dead", "expired"])
def test_a_map_is_not_retried_while_a_letter_of_an_item_is_out(server: Any, outcome: str) -> None:
    run = _mapped(server, 200)
    run.replay("1.1")
    run.retry_step("1")
    assert run.rule.states["1"] == "d"
    assert run.rule.retry("1")[0] == "replayed"
    _drain(run, {"1.1": outcome})
    assert run.rule.maps["1"] == [5, 1 if outcome == "handled" else 2, 5, 5]
    run.retry_step("1")
    _drain(run)
    assert (run.rule.state, run.rule.maps["1"]) == (RunState.COMPLETED, [5, 0, 5, 5])
    run.check_ledgers()
    run.history.over(run.rule.counts, run.rule.states, run.rule.state)


def test_nothing_is_left_of_the_first_outcome(server: Any) -> None:
    run = RunUnderTest(server, plan_of([_step(Kind.TASK, [])]), OnFailure.STOP, 200)
    run.start(None)
    _drain(run, {"0": "dead"})
    outcome, hooks = run.keys.outcome(f"{UID}.0"), run.keys.outcome_hooks(f"{UID}.0")
    server.hset(hooks, "cancel", "x")
    run.retry_step("0")
    assert not server.exists(outcome)
    assert server.hkeys(hooks) == [b"run", b"step"]
    _drain(run)
    assert run.rule.state is RunState.COMPLETED


@BUDGETS
def test_a_retried_map_respects_its_limit(server: Any, budget: int) -> None:
    steps = [_step(Kind.TASK, []), _step(Kind.MAP, [0], MAP)]
    run = RunUnderTest(server, plan_of(steps), OnFailure.STOP, budget)
    run.start(None)
    _drain(run, {f"1.{item}": "dead" for item in range(5)})
    run.retry_step("1")
    for _ in range(60):
        while run.rule.agenda:
            run.advance()
        assert sum(state[0] == "s" for state in run.rule.states.values()) <= 2
        for queue in QUEUES:
            run.claim(queue)
        for held in run.held()[:1]:
            run.settle(held, "handled", 1)
    assert (run.rule.state, run.rule.maps["1"]) == (RunState.COMPLETED, [5, 0, 5, 5])
