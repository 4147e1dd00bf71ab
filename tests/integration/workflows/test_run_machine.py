"""A hypothesis state machine: runs of random workflows by the scripts, on a real Redis, beside the pure rule.

Both make the same moves in the same slices, and are compared after each: states, counts, maps, what is parked, planned,
owed and sent. A checker of the history knows nothing of the rule.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis import Redis

from orchestrator.core.run_state import OPEN_STATES
from orchestrator.core.workflow_plan import Kind, OnFailure, When
from orchestrator.embedded import EmbeddedServer
from tests.support.agents_under_test import AGENTS
from tests.support.patient_redis import patient_redis
from tests.support.runs_under_test import QUEUES, RunUnderTest, plan_of

EVENTS = ("approved", "paid")
#: Mostly lists, or few maps would have items.
RESULTS = st.sampled_from(
    [[1, 2, 3], [1, 2, 3], [1, 2], [1, 2, 3, 4], [], 7, {}, {"pages": [1, 2]}, None, "né", [None]]
)
OUTCOMES = st.sampled_from(["handled", "handled", "handled", "dead", "dead", "deployment", "expired", "cancelled"])


@st.composite
def steps(draw: st.DrawFn, most: int = 7) -> list[dict[str, Any]]:
    """Steps of a workflow, each after some of those before it."""
    count = draw(st.integers(1, most))
    kinds = st.sampled_from([Kind.TASK, Kind.TASK, Kind.TASK, Kind.JOIN, Kind.MAP, Kind.MAP, Kind.WAIT])
    made = [_step(draw, number, draw(kinds)) for number in range(count)]
    watched = draw(st.sets(st.integers(0, count - 1), max_size=2))
    if watched:
        errback: dict[str, Any] = {
            "kind": Kind.TASK,
            "after": [],
            "when": When.ALL_HANDLED,
            "undo": False,
            "options": {},
        }
        made.append({**errback, "errback_of": sorted(watched)})
    return made


def _step(draw: st.DrawFn, number: int, kind: Kind) -> dict[str, Any]:
    after = sorted(draw(st.sets(st.integers(max(0, number - 3), number - 1), max_size=2))) if number else []
    if not after and kind in (Kind.JOIN, Kind.MAP):
        kind = Kind.TASK
    options: dict[str, Any] = {}
    if kind is Kind.MAP:
        path = draw(st.sampled_from([[], [], [], [], ["pages"], [-1]]))
        options = {"over": str(draw(st.sampled_from(after))), "path": path, "says": "it"}
        limit = draw(st.sampled_from([None, 1, 1, 2]))
        options |= {} if limit is None else {"limit": limit}
    elif kind is Kind.WAIT:
        event, ms = draw(st.sampled_from([("approved", None), ("paid", 300), (None, 200), ("approved", 100)]))
        options = {name: value for name, value in (("event", event), ("ms", ms)) if value is not None}
    needs = draw(st.sampled_from(["", "", "", "ever", "soon"])) if kind in (Kind.TASK, Kind.MAP) else ""
    # One draw, so that the simplest workflow has neither conditions nor compensations.
    when = draw(st.sampled_from(When)) if after else When.ALL_HANDLED
    return {"kind": kind, "after": after, "when": when, "undo": draw(st.booleans()), "options": options,
            "needs": needs}  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Calls of a workflow function."""
    kinds = st.sampled_from([Kind.TASK, Kind.TASK, Kind.TASK, Kind.WAIT])
    return [_step(draw, 0, draw(kinds)) for _ in range(draw(st.integers(1, 3)))]


class Running(RuleBasedStateMachine):
    """A run, its workers, its user and its clock."""

    server: ClassVar[Redis]
    run: RunUnderTest

    @initialize(
        steps=steps(),
        on_failure=st.sampled_from(OnFailure),
        budget=st.sampled_from([1, 2, 3, 5, 200]),
        deadline=st.sampled_from([None, None, None, 500]),
    )
    def start(self, steps: list[dict[str, Any]], on_failure: OnFailure, budget: int, deadline: int | None) -> None:
        self.run = RunUnderTest(self.server, plan_of(steps), on_failure, budget)
        self.run.agents.lives("a0", 1)
        self.run.agents.lives("a1", 2)
        self.run.start(deadline)

    @rule(queue=st.sampled_from(QUEUES), most=st.integers(1, 3))
    def claim(self, queue: str, most: int) -> None:
        for _ in range(most):
            self.run.claim(queue)

    @rule(at=st.integers(0, 20), outcome=OUTCOMES, result=RESULTS)
    def settle(self, at: int, outcome: str, result: Any) -> None:
        held = self.run.held()
        if held:
            self.run.settle(held[at % len(held)], outcome, result)

    @rule(result=RESULTS, queue=st.sampled_from(QUEUES))
    def handle(self, result: Any, queue: str) -> None:
        """The usual: a message is claimed and handled."""
        if self.run.claim(queue):
            self.run.settle([held for held in self.run.held() if held[0] == queue][-1], "handled", result)

    @rule(at=st.integers(0, 20), queue=st.sampled_from(QUEUES), steps=steps(3))
    def expand(self, at: int, queue: str, steps: list[dict[str, Any]]) -> None:
        """A handler returns steps that take the place of its own."""
        self.run.claim(queue)
        held = [held for held in self.run.held() if not held[3].startswith("u")]
        if held and len(self.run.plan) < 40:
            self.run.expand(held[at % len(held)], steps)

    @rule(at=st.integers(0, 20), queue=st.sampled_from(QUEUES), calls=calls(), stale=st.integers(0, 9))
    def suspend(self, at: int, queue: str, calls: list[dict[str, Any]], stale: int) -> None:
        """A workflow function calls some steps."""
        self.run.claim(queue)
        held = [held for held in self.run.held() if not held[3].startswith("u")]
        if held and len(self.run.plan) < 40:
            self.run.suspend(held[at % len(held)], calls, stale=stale == 0)

    @rule(at=st.integers(0, 20), is_requeued=st.booleans())
    def return_message(self, at: int, is_requeued: bool) -> None:
        held = self.run.held()
        if held and is_requeued:
            self.run.requeue(held[at % len(held)])
        elif held:
            self.run.retry(held[at % len(held)])

    @rule()
    def worker_dies(self) -> None:
        """A SIGKILL: all that is held is requeued, or is poison."""
        if self.run.held():
            self.run.die()

    @rule(agent=st.sampled_from(AGENTS), slots=st.integers(0, 2), was_fenced=st.booleans())
    def agent_comes_or_goes(self, agent: str, slots: int, was_fenced: bool) -> None:
        if slots:
            self.run.agents.lives(agent, slots)
        else:
            self.run.agents.dies(agent, was_fenced=was_fenced)

    @precondition(lambda self: any("needs" in plan.options for plan in self.run.plan.values()))
    @rule()
    def place_again(self) -> None:
        self.run.place_again()

    @precondition(lambda self: self.run.letters)
    @rule(at=st.integers(0, 20))
    def replay(self, at: int) -> None:
        letters = sorted(self.run.letters)
        self.run.replay(letters[at % len(letters)])

    @precondition(lambda self: any(state[0] in "dec" for state in self.run.rule.states.values()))
    @rule(at=st.integers(0, 20))
    def retry_step(self, at: int) -> None:
        steps = sorted(step for step in self.run.rule.states if step.isdigit())
        failed = [step for step in steps if self.run.rule.states[step][0] in "dec"] or steps
        self.run.retry_step(failed[at % len(failed)])

    @rule()
    def pause(self) -> None:
        self.run.control("pause")

    @precondition(lambda self: self.run.rule.paused)
    @rule()
    def resume(self) -> None:
        self.run.control("resume")

    @rule(compensate=st.booleans(), at=st.integers(0, 2))
    def cancel(self, compensate: bool, at: int) -> None:
        # Rare, or few runs get far.
        if at == 0:
            self.run.control("cancel", "1" if compensate else "0")

    @rule(event=st.sampled_from(EVENTS), payload=RESULTS)
    def post(self, event: str, payload: Any) -> None:
        self.run.control("post", event, json.dumps(payload))

    @rule(ms=st.sampled_from([50, 150, 400]))
    def time_passes(self, ms: int) -> None:
        self.run.time_passes(ms)

    @precondition(lambda self: self.run.rule.agenda)
    @rule(most=st.integers(1, 20))
    def advance(self, most: int) -> None:
        for _ in range(most):
            self.run.advance()

    def teardown(self) -> None:
        """Everything goes well from now on: the run ends."""
        if not hasattr(self, "run"):
            return
        run = self.run
        run.control("resume")
        for agent in AGENTS:
            run.agents.lives(agent, 1)
        for _ in range(400):
            if run.rule.has_ended and not run.held() and not any(run.claim(queue) for queue in QUEUES):
                break
            while run.rule.agenda:
                run.advance()
            run.place_again()
            for event in EVENTS:
                run.control("post", event, "[1]")
            for held in run.held():
                run.settle(held, "handled", [1, 2])
            for queue in QUEUES:
                while run.claim(queue):
                    pass
            run.time_passes(1000)
        assert run.rule.state not in OPEN_STATES, f"it hangs: {run.rule.states}"
        run.compare()
        run.check_ledgers()
        run.history.over(run.rule.counts, run.rule.states, run.rule.state)


@pytest.mark.parametrize("examples", [25, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_runs_are_what_the_rule_says(own_redis_server: EmbeddedServer, examples: int) -> None:
    with patient_redis(own_redis_server.url) as client:
        Running.server = client
        run_state_machine_as_test(
            Running,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
