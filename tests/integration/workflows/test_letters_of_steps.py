"""Of a step, of its callers and of its calls one message is out at a time, by the scripts and by the rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.embedded import EmbeddedServer
from tests.support.runs_under_test import PLAIN, RunUnderTest, plan_of

TASK: dict[str, Any] = {"kind": Kind.TASK, "after": [], "when": When.ALL_HANDLED, "undo": False, "options": {}}


@pytest.fixture
def run(redis_server: EmbeddedServer) -> Iterator[RunUnderTest]:
    """A run of one step, that goes on whatever becomes of it."""
    with Redis.from_url(redis_server.url) as client:
        run = RunUnderTest(client, plan_of([TASK, TASK]), OnFailure.CONTINUE, 200)
        run.start(None)
        yield run


def _held(run: RunUnderTest, step: str) -> tuple[str, str, str, str]:
    for queue in PLAIN:
        while run.claim(queue):
            pass
    return next(held for held in run.held() if held[3] == step)


def _settle(run: RunUnderTest, step: str, outcome: str) -> None:
    run.settle(_held(run, step), outcome, 1)


@pytest.mark.parametrize("outcome", ["handled", "expired", "cancelled"])
def test_a_letter_from_before_a_retry_is_still_of_its_step(run: RunUnderTest, outcome: str) -> None:
    """Regression: once the retry had ended and was not dead, the letter was replayed as if it were of no run."""
    _settle(run, "0", "dead")
    run.retry_step("0")
    _settle(run, "0", outcome)
    run.replay("0")
    if outcome == "handled":
        assert "0" in run.letters
        assert not run.rule.replayed
    else:
        _settle(run, "0", "handled")
    assert run.rule.states["0"] == "h"
    run.compare()


def test_a_letter_is_not_replayed_while_its_step_is_parked(run: RunUnderTest) -> None:
    """Regression: nothing said that it was of a step that was about to begin again."""
    _settle(run, "0", "dead")
    run.control("pause")
    run.retry_step("0")
    assert run.rule.states["0"] == "r"
    run.replay("0")
    assert "0" in run.letters


def _nested(run: RunUnderTest) -> None:
    """A function calls one that calls a task, and all three are dead."""
    run.suspend(_held(run, "0"), [TASK], stale=False)
    run.suspend(_held(run, "2"), [TASK], stale=False)
    for step in ("3", "2", "0"):
        _settle(run, step, "dead")


@pytest.mark.parametrize(("first", "second"), [("0", "3"), ("0", "2"), ("2", "3"), ("3", "0"), ("2", "0"), ("3", "2")])
def test_of_a_function_and_its_calls_one_letter_is_out(run: RunUnderTest, first: str, second: str) -> None:
    """Regression: the outcome of one had the function sent again, while its own letter was out."""
    _nested(run)
    run.replay(first)
    run.replay(second)
    assert run.rule.replayed == {first}
    assert second in run.letters
    assert run.rule.retry(second)[0] == "replayed"
    run.retry_step(second)
    assert run.rule.states["0"] == "d"
    _settle(run, first, "dead")
    run.replay(second)
    assert run.rule.replayed == {second}


def test_the_letter_of_a_call_has_its_callers_executed_again(run: RunUnderTest) -> None:
    _nested(run)
    run.replay("3")
    for step in ("3", "2", "0"):
        _settle(run, step, "handled")
    assert [run.rule.states[step] for step in ("3", "2", "0")] == ["h", "h", "h"]
    _settle(run, "1", "handled")
    assert run.rule.has_ended
