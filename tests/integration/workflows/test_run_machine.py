"""A hypothesis state machine: runs of random workflows by the scripts, on a real Redis, beside the pure rule.

Both make the same moves in the same slices, and are compared after each: states, counts, maps, what is parked, planned,
owed and sent. A checker of the history knows nothing of the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from redis import Redis

from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.core.workflows.run_state import OPEN_STATES, RunState
from orchestrator.embedded import EmbeddedServer
from tests.support.agents_under_test import AGENTS
from tests.support.driven_machine import drive_machine
from tests.support.patient_redis import patient_redis
from tests.support.planted_faults import Fault, assert_finds, cases
from tests.support.runs_under_test import QUEUES, RunUnderTest, plan_of
from tests.support.weighted_moves import WeightedMachine, move

EVENTS = ("approved", "paid")
DEADLINE_MS = 500
#: Mostly lists, or few maps would have items.
RESULTS = st.sampled_from(
    [[1, 2, 3], [1, 2, 3], [1, 2], [1, 2, 3, 4], [], 7, {}, {"pages": [1, 2]}, None, "né", [None]]
)
#: Mostly such as go on after a failure, and begin only if all was handled.
ON_FAILURES = st.sampled_from([OnFailure.STOP, OnFailure.CONTINUE, OnFailure.CONTINUE, OnFailure.COMPENSATE])
WHENS = st.sampled_from([When.ALL_HANDLED, When.ALL_HANDLED, *When])
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
    before = range(max(0, number - 3), number)
    count = min(len(before), draw(st.sampled_from([1, 1, 2, 0]))) if number else 0
    after = sorted(draw(st.permutations(before))[:count]) if count else []
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
    when = draw(WHENS) if after else When.ALL_HANDLED
    return {"kind": kind, "after": after, "when": when, "undo": draw(st.booleans()), "options": options,
            "needs": needs}  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Calls of a workflow function."""
    kinds = st.sampled_from([Kind.TASK, Kind.TASK, Kind.TASK, Kind.WAIT])
    return [_step(draw, 0, draw(kinds)) for _ in range(draw(st.integers(1, 3)))]


def _call() -> dict[str, Any]:
    return {"kind": Kind.TASK, "after": [], "when": When.ALL_HANDLED, "undo": False, "options": {}}


def has_held(machine: Running) -> bool:
    """Whether a worker has a message."""
    return bool(machine.run.held())


def has_messages(machine: Running) -> bool:
    """Whether a worker may claim a message."""
    return bool(machine.run.queues_with_messages())


def busy_queue(machine: Running) -> st.SearchStrategy[str]:
    """A mailbox; one in which a message waits, if there is one."""
    return st.sampled_from(machine.run.queues_with_messages() or QUEUES)


class Running(WeightedMachine):
    """A run, its workers, its user and its clock."""

    server: ClassVar[Redis]
    run: RunUnderTest

    @initialize(
        steps=steps(),
        on_failure=ON_FAILURES,
        budget=st.sampled_from([1, 2, 3, 5, 200]),
        deadline=st.sampled_from([None, DEADLINE_MS, None]),
    )
    def start(self, steps: list[dict[str, Any]], on_failure: OnFailure, budget: int, deadline: int | None) -> None:
        self.run = RunUnderTest(self.server, plan_of(steps), on_failure, budget)
        self.run.agents.lives("a0", 1)
        self.run.agents.lives("a1", 2)
        self.has_deadline = deadline is not None
        self.run.start(deadline)

    @move(3, when=has_messages, queue=busy_queue, most=st.integers(1, 3))
    def claim(self, queue: str, most: int) -> None:
        for _ in range(most):
            self.run.claim(queue)

    @move(6, when=has_held, at=st.integers(0, 20), outcome=OUTCOMES, result=RESULTS)
    def settle(self, at: int, outcome: str, result: Any) -> None:
        held = self.run.held()
        if held:
            self.run.settle(held[at % len(held)], outcome, result)

    @move(4, when=has_messages, result=RESULTS, queue=busy_queue)
    def handle(self, result: Any, queue: str) -> None:
        """The usual: a message is claimed and handled."""
        if self.run.claim(queue):
            self.run.settle([held for held in self.run.held() if held[0] == queue][-1], "handled", result)

    @move(when=has_messages, at=st.integers(0, 20), queue=busy_queue, steps=steps(3))
    def expand(self, at: int, queue: str, steps: list[dict[str, Any]]) -> None:
        """A handler returns steps that take the place of its own."""
        self.run.claim(queue)
        held = [held for held in self.run.held() if not held[3].startswith("u")]
        if held and len(self.run.plan) < 40:
            self.run.expand(held[at % len(held)], steps)

    @move(when=has_messages, at=st.integers(0, 20), queue=busy_queue, calls=calls(), stale=st.integers(0, 9))
    def suspend(self, at: int, queue: str, calls: list[dict[str, Any]], stale: int) -> None:
        """A workflow function calls some steps."""
        self.run.claim(queue)
        held = [held for held in self.run.held() if not held[3].startswith("u")]
        if held and len(self.run.plan) < 40:
            self.run.suspend(held[at % len(held)], calls, stale=stale == 0)

    @move(2, when=has_held, at=st.integers(0, 20), is_requeued=st.booleans())
    def return_message(self, at: int, is_requeued: bool) -> None:
        held = self.run.held()
        if held and is_requeued:
            self.run.requeue(held[at % len(held)])
        elif held:
            self.run.retry(held[at % len(held)])

    @move(when=has_held)
    def worker_dies(self) -> None:
        """A SIGKILL: all that is held is requeued, or is poison."""
        if self.run.held():
            self.run.die()

    @move(agent=st.sampled_from(AGENTS), slots=st.integers(0, 2), was_fenced=st.booleans())
    def agent_comes_or_goes(self, agent: str, slots: int, was_fenced: bool) -> None:
        if slots:
            self.run.agents.lives(agent, slots)
        else:
            self.run.agents.dies(agent, was_fenced=was_fenced)

    @move(when=lambda self: any("needs" in plan.options for plan in self.run.plan.values()))
    def place_again(self) -> None:
        self.run.place_again()

    @move(2, when=lambda self: self.run.letters, at=st.integers(0, 20))
    def replay(self, at: int) -> None:
        letters = sorted(self.run.letters)
        self.run.replay(letters[at % len(letters)])

    @move(2, when=lambda self: any(state[0] in "dec" for state in self.run.rule.states.values()), at=st.integers(0, 20))
    def retry_step(self, at: int) -> None:
        steps = sorted(step for step in self.run.rule.states if step.isdigit())
        failed = [step for step in steps if self.run.rule.states[step][0] in "dec"] or steps
        self.run.retry_step(failed[at % len(failed)])

    @move(when=has_messages, queue=busy_queue, outcome=OUTCOMES)
    def replay_after_a_retry(self, queue: str, outcome: str) -> None:
        """A letter is left of a step that has begun again; without this, few examples come to that."""
        step = self._settle_next(queue, "dead")
        # Steps are retried, and not the items of a map alone.
        if step.isdigit():
            self.run.retry_step(step)
            for queue in QUEUES:
                if self._settle_next(queue, outcome, of=step):
                    break
            if step in self.run.letters:
                self.run.replay(step)

    @move(when=has_messages, queue=busy_queue, at=st.permutations(range(3)))
    def calls_and_their_callers_die(self, queue: str, at: list[int]) -> None:
        """Three letters of which one may be out; without this, few examples come to that."""
        callers: list[tuple[str, str]] = []
        while self.run.claim(queue) and len(callers) < 3 and len(self.run.plan) < 40:
            held = [held for held in self.run.held() if held[0] == queue][-1]
            if held[3].startswith("u"):
                break
            callers.append((queue, held[3]))
            if len(callers) == 3:
                self.run.settle(held, "dead", None)
                break
            call = str(self.run.next_number)
            self.run.suspend(held, [_call()], stale=False)
            queue = self.run.plan[call].queue
        for queue, step in reversed(callers[:-1]):
            self._settle_next(queue, "dead", of=step)
        for place in at[:2]:
            if place < len(callers) and callers[place][1] in self.run.letters:
                self.run.replay(callers[place][1])

    def _settle_next(self, queue: str, outcome: str, of: str = "") -> str:
        """A message is claimed and ends; which step it is, empty if there is none, or none ``of`` this step."""
        while self.run.claim(queue):
            held = [held for held in self.run.held() if held[0] == queue][-1]
            if of in ("", held[3]):
                self.run.settle(held, outcome, [1, 2])
                return held[3]
        return ""

    @move(when=lambda self: self.run.rule.has_ended)
    def compensate(self) -> None:
        self.run.compensate()

    @move(when=lambda self: not self.run.rule.paused)
    def pause(self) -> None:
        self.run.control("pause")

    @move(3, when=lambda self: self.run.rule.paused)
    def resume(self) -> None:
        self.run.control("resume")

    @move(2, when=has_messages, queue=busy_queue)
    def retry_in_a_pause(self, queue: str) -> None:
        """An attempt fails after its run was paused; without this, few examples come to that."""
        if self.run.claim(queue):
            self.run.control("pause")
            self.run.retry([held for held in self.run.held() if held[0] == queue][-1])

    @move(compensate=st.booleans(), at=st.integers(0, 2))
    def cancel(self, compensate: bool, at: int) -> None:
        # Rare, or few runs get far.
        if at == 0:
            self.run.control("cancel", "1" if compensate else "0")

    @move(when=has_messages, queue=busy_queue, at=st.integers(0, 1))
    def compensate_two(self, queue: str, at: int) -> None:
        """Two steps are handled, of which the last is compensated first; without this, few examples come to that."""
        # Rare, as a cancel is.
        if at > 0 or not self.run.claim(queue):
            return
        held = [held for held in self.run.held() if held[0] == queue][-1]
        if not held[3].startswith("u") and len(self.run.plan) < 40:
            first = self.run.next_number
            self.run.expand(held, [_call() | {"undo": True}] * 2)
            while self.run.rule.agenda:
                self.run.advance()
            for step in (str(first), str(first + 1)):
                self._settle_next(self.run.plan[step].queue, "handled", of=step)
        self.run.control("cancel", "1")

    @move(event=st.sampled_from(EVENTS), payload=RESULTS)
    def post(self, event: str, payload: Any) -> None:
        self.run.control("post", event, json.dumps(payload))

    @move(2, when=has_messages, queue=busy_queue, event=st.sampled_from(EVENTS))
    def wait_for_what_has_come(self, queue: str, event: str) -> None:
        """An event comes before a step waits for it; without this, few examples come to that."""
        if self.run.claim(queue):
            held = [held for held in self.run.held() if held[0] == queue][-1]
            self.run.control("post", event, "[1]")
            if not held[3].startswith("u") and len(self.run.plan) < 40:
                self.run.expand(held, [_call() | {"kind": Kind.WAIT, "options": {"event": event}}])

    @move(ms=st.sampled_from([50, 150, 400]))
    def time_passes(self, ms: int) -> None:
        self.run.time_passes(ms)

    @move(3, when=lambda self: self.has_deadline and self.run.rule.state in (RunState.RUNNING, RunState.STOPPING))
    def deadline_comes(self) -> None:
        self.run.time_passes(DEADLINE_MS)

    @move(3, when=lambda self: self.run.rule.agenda, most=st.integers(1, 20))
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


@pytest.fixture
def machine(own_redis_server: EmbeddedServer) -> Iterator[type[Running]]:
    """The machine, over a Redis of its own."""
    with patient_redis(own_redis_server.url) as client:
        Running.server = client
        yield Running


@pytest.mark.parametrize("examples", [25, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_runs_are_what_the_rule_says(machine: type[Running], examples: int) -> None:
    drive_machine(machine, "RUN_EXAMPLES", examples=examples)


#: In a script: what is right, and what is not.
FAULTS = {
    "a pause lets steps begin": Fault("'running' and r.paused then\n    runs.park", "'' then\n    runs.park"),
    "a cancel leaves messages": Fault("if runs.take_back(r, step, entry, cancel) then", "if false then"),
    "work that is left is forgotten": Fault("redis.call('RPUSH', agenda, r.work[i])", ""),
    "a wait has no time-out": Fault("'timers', now_ms() + options.ms, runs.timer(r, step))", "'x', 1, 'x')"),
    "a step begins before all that it waits for": Fault("if ended < plan.dependencies then", "if ended < 1 then"),
    "the first compensation comes first": Fault("redis.call('RPOP', undo)", "redis.call('LPOP', undo)"),
    "a step that has ended is still out": Fault("if was == 's' or was == 'n' then runs.count(r, 'open', -1) end", ""),
    "nothing is compensated": Fault("if not plan.undo or plan.kind", "if true or plan.kind"),
    "one handled step is enough for all": Fault("when == 'all_handled' and unhandled == 0", "when == 'all_handled'"),
    "a map sends all its items at once": Fault("of.sent - of.ended < limit and", "true and"),
    "the deadline never comes": Fault("elseif value == 'deadline' then", "elseif value == 'never' then"),
    "an event that came early is lost": Fault("if payload then\n    runs.happened", "if false then\n    runs.happened"),
    "a wait's time outlives it": Fault("redis.call('ZREM', r.root .. 'timers', runs.timer(r, step))", ""),
    "a failure stops what is to continue": Fault("and r.on_failure ~= 'continue' then", "then"),
    "an unplaced step is never placed": Fault("runs.plan_work(run, 'n', '', count)", ""),
    "the most loaded agent gets the step": Fault(
        "if not best or load < least then",
        "if not best or load > least then",
    ),
    "keys of an ended run stay for ever": Fault("redis.call('PEXPIRE', r.key .. runs.PARTS[i], keep_ms)", ""),
    "a retry is due during a pause": Fault("if run then runs.postpone(run, waits) end", ""),
    "what a pause has held is never due": Fault("redis.call('ZADD', delayed, due, member)", ""),
    "a function is executed before its calls have ended": Fault(
        "if left == 1 then runs.send_again",
        "if left > 0 then runs.send_again",
    ),
    "a letter is of no run once its step has begun again": Fault(
        "local run = uid and root .. 'run:' .. uid",
        "local run = redis.call('HGET', root .. 'hooks:' .. delivery, 'run')",
    ),
    "of a call and its caller two letters are out": Fault(
        "if redis.call('HEXISTS', hooks .. one, 'replayed') == 1 then return true end", ""
    ),
    "a caller's letter is out beside that of its call": Fault("'replayed:' .. step) or 0) > 0", "'x') or 0) > 0"),
    "a letter is out for ever": Fault("letters_out.count(run.key, letters_out.above(run.key, step), -1)", ""),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=3))
def test_the_machine_finds_a_planted_fault(machine: type[Running], fault: str) -> None:
    assert_finds(machine, FAULTS[fault])
