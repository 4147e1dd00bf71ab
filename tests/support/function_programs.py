"""Random workflow functions: executed once with a context that answers at once, and step by step as a run has them.

A program is a list of instructions. What it asks for is answered by what it asks: so both ways get the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

from hypothesis import strategies as st

from orchestrator import Message, StepFailed
from orchestrator.core.deliveries.outcome import Dead, to_wire
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.core.workflows.run import Run
from orchestrator.core.workflows.run_calls import CallList, Suspended, calls_of
from orchestrator.core.workflows.run_state import Effects
from orchestrator.workflows.definition import StepDefinition
from orchestrator.workflows.functions.context import WorkflowContext
from orchestrator.workflows.functions.execution import Execution
from orchestrator.workflows.functions.history import history_of

Program = list[Any]

#: Stands for a call whose failure the function catches.
CAUGHT = "caught"


class Ask(Message):
    """Answered by the number, or by a failure."""

    number: int
    fails: bool = False


class Nested(Message):
    """Answered by another program."""

    program: Program


def programs(depth: int = 2) -> st.SearchStrategy[Program]:
    """Programs that call others, and branch on what they have got."""
    asks = st.tuples(st.integers(0, 3), st.sampled_from([False, False, False, True]))
    caught = st.sampled_from([True, True, False])
    plain: list[st.SearchStrategy[Any]] = [
        st.tuples(st.just("call"), asks, caught),
        st.tuples(st.just("gather"), st.lists(asks, max_size=4), caught),
        st.tuples(st.just("sleep"), st.integers(1, 3)),
        st.tuples(st.just("event"), st.sampled_from(["a", "b"])),
        st.just(("value",)),
        st.just(("now",)),
    ]
    if depth:
        inner = programs(depth - 1)
        plain += [st.tuples(st.just("branch"), inner, inner), st.tuples(st.just("nested"), inner, caught)]
    return st.lists(st.one_of(plain), max_size=4).map(list)


def run_program(ctx: Any, program: Sequence[Any]) -> list[Any]:
    """The function: what it has got, in order."""
    said: list[Any] = []
    for name, *parts in program:
        match name:
            case "call":
                (number, fails), caught = parts
                said.append(_got(partial(ctx.call, "a", Ask(number=number, fails=fails)), caught))
            case "gather":
                asked, caught = parts
                calls = [("a", Ask(number=number, fails=fails)) for number, fails in asked]
                said.append(_got(partial(ctx.gather, calls), caught))
            case "sleep":
                ctx.sleep(parts[0])
            case "event":
                said.append(ctx.wait_event(parts[0]))
            case "value":
                said.append([ctx.side_effect(lambda: 5), str(ctx.random.random()), str(ctx.uuid())][0])
            case "now":
                assert isinstance(ctx.now(), datetime)
            case "branch":
                total = sum(one for one in said if isinstance(one, int))
                said += run_program(ctx, parts[total % 2])
            case "nested":
                said.append(_got(partial(ctx.call, "a", Nested(program=parts[0])), parts[1]))
    return said


def _got(ask: Callable[[], Any], caught: bool) -> Any:
    if not caught:
        return ask()
    try:
        return ask()
    except Exception as error:  # noqa: BLE001
        return CAUGHT if isinstance(error, StepFailed) else repr(error)


class Direct:
    """A context that answers at once, and counts what it is asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.random = Random(0)

    def call(self, _to: str, message: Message) -> Any:
        """The answer to a message, or to a whole program."""
        self.asked += 1
        if isinstance(message, Nested):
            try:
                return run_program(self, message.program)
            except StepFailed as error:
                raise StepFailed("nested", error) from None
        assert isinstance(message, Ask)
        if message.fails:
            raise StepFailed("call", None)
        return message.number

    def gather(self, calls: Sequence[tuple[str, Message]]) -> list[Any]:
        """All answers, then the first failure."""
        failed, got = None, []
        for to, message in calls:
            try:
                got.append(self.call(to, message))
            except StepFailed as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return got

    def sleep(self, _seconds: float) -> None:
        self.asked += 1

    def wait_event(self, event: str) -> str:
        """The event's payload: its name."""
        self.asked += 1
        return event

    def side_effect(self, function: Callable[[], Any]) -> Any:
        return function()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def uuid(self) -> str:
        return "uuid"


class SteppedRun:
    """A run of a program by the rule of runs: messages are delivered one by one, and some die with their workers."""

    def __init__(self, program: Program, budget: int) -> None:
        self.rule = Run({"0": StepPlan("f")}, budget=budget, take_back=self._take_back)
        self.pending: list[str] = []
        self.timers: list[str] = []
        #: Step -> how often its message was sent.
        self.sends: Counter[str] = Counter()
        self._messages: dict[str, Message] = {"0": Nested(program=program)}
        self._next = 1
        self._delivered: set[str] = set()
        self._apply(self.rule.start())

    def _apply(self, effects: Effects) -> None:
        for step in effects.send:
            self.sends[step] += 1
            self.pending.append(step)
            self._delivered.discard(step)
        self.timers += [step for step, _ in effects.timers]

    def _take_back(self, step: str, _cancelled: bool) -> bool:
        if step not in self.pending or step in self._delivered:
            return False
        self.pending.remove(step)
        self.sends[step] -= 1
        return True

    def deliver(self, at: int, *, killed: bool) -> None:
        """Handle a message; one whose worker is ``killed`` has no outcome, and comes again."""
        step = self.pending[at % len(self.pending)]
        outcome = self._handle(step)
        if killed:
            self._delivered.add(step)
            return
        self.pending.remove(step)
        self._apply(self.rule.step_ended(step, outcome))

    def fire(self, at: int) -> None:
        """The time of a wait comes."""
        self._apply(self.rule.time_came(self.timers.pop(at % len(self.timers))))

    def post(self, event: str) -> None:
        """An event comes."""
        self._apply(self.rule.happened(event, event))

    def toggle_pause(self) -> None:
        """Pause the run, or let it go on."""
        self._apply(self.rule.resume() if self.rule.paused else self.rule.pause())

    def advance(self) -> None:
        """Go on with what is planned."""
        self._apply(self.rule.advance())

    def _handle(self, step: str) -> Mapping[str, Any]:
        message = self._messages[step]
        if isinstance(message, Ask):
            return _dead("it fails") if message.fails else {"outcome": "handled", "result": message.number}
        assert isinstance(message, Nested)
        program, run = message.program, {"id": "w", "uid": "u", "step": step, "name": self.rule.plan[step].name}
        calls = CallList.from_text(self.rule.calls.get(step))

        def read(numbers: Sequence[str]) -> list[Any]:
            return [self.rule.outcomes.get(number) for number in numbers]

        history = history_of(run, calls, read, read, lambda _: 0)
        execution = Execution("f", run, history, self._suspend(step), 1_000_000)
        try:
            result = execution.finish(lambda: run_program(WorkflowContext(execution), program))
        except StepFailed as error:
            return _dead(f"StepFailed: {error}")
        if isinstance(result, Suspended):
            return {"outcome": "handled", "result": None, Suspended.FIELD: result.to_wire()}
        return {"outcome": "handled", "result": result}

    def _suspend(self, caller: str) -> Callable[..., Suspended]:
        def suspend(definitions: Sequence[StepDefinition], after: int, entries: Any) -> Suspended:
            first, self._next = self._next, self._next + len(definitions)
            for number, one in enumerate(definitions, first):
                self._messages[str(number)] = one.message
            self.rule.add_steps(calls_of(caller, first, [_plan(one) for one in definitions]))
            return Suspended(first, len(definitions), after, tuple(map(list, entries)))

        return suspend


def _plan(one: StepDefinition) -> StepPlan:
    options: dict[str, Any] = {} if one.event is None else {"event": one.event}
    return StepPlan(one.name, one.kind, options=options if one.wait_s is None else {**options, "ms": 1})


def _dead(error: str) -> dict[str, Any]:
    return to_wire(Dead("retries exhausted", error))
