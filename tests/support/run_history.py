"""A checker over the history of a workflow's run: what must hold whatever the rule is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.core.workflows.expansion import steps_in_place
from orchestrator.core.workflows.plan import Kind, StepPlan, number_of, numbers_in
from orchestrator.core.workflows.run_calls import CALLER
from orchestrator.core.workflows.run_state import ENDED


@dataclass
class RunHistory:
    """What happened in a run: (kind, step or value), in order."""

    plan: Mapping[str, StepPlan]
    log: list[tuple[str, str]] = field(default_factory=list)
    #: Steps whose message is out.
    out: set[str] = field(default_factory=set)
    #: Step -> its last outcome, in one word.
    outcomes: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    cancelled: bool = False
    #: How many steps it was started with.
    declared: int = field(init=False)
    _undone: list[str] = field(default_factory=list)
    _owed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.declared = sum(number.isdigit() for number in self.plan)

    def sent(self, step: str, states: Mapping[str, str]) -> None:
        """A message was sent; ``states`` are those of all steps then."""
        self.log.append(("sent", step))
        assert step not in self.out, f"{step} is out already"
        assert not self.paused, f"{step} was sent during a pause"
        self.out.add(step)
        if step.startswith("u"):
            assert self.out == {step}, f"{step} was sent while {self.out - {step}} were out"
            assert self._owed, f"{step} is owed by nobody"
            assert self._owed.pop() == step[1:], f"{step} is not the last that was handled; {self.log}"
            # Once more, if its step was: its letter was replayed though it had begun again, and was handled both times.
            self.outcomes.pop(step, None)
            return
        assert not self.cancelled, f"{step} was sent after its run was cancelled"
        assert step not in self.outcomes, f"{step} has ended already"
        for number, plan in self.plan.items():
            if plan.options.get(CALLER) == step and number in states:
                assert states[number][0] in ENDED, f"{step} was sent before its call {number} ended"
            if int(number_of(step)) in plan.dependents:
                assert states.get(number, "w")[0] in ENDED, f"{step} was sent before {number} ended"
        if step in self._errbacks():
            callers = [n for n, plan in self.plan.items() if int(step) in numbers_in(plan.options.get("errbacks", ""))]
            replaced = steps_in_place(self.plan, states)
            assert any(kind == "dead" and number_of(one) in callers for kind, one in self.log) or any(
                self._may_die_unsent(caller, replaced) for caller in callers
            ), f"errback {step} was sent, and none of {callers} is dead"

    def _may_die_unsent(self, step: str, replaced: Collection[str]) -> bool:
        """Whether a step may be dead by something else than its message: its items, its time, or steps in its place."""
        plan = self.plan[step]
        items = [one for one in replaced if number_of(one) == step]
        return plan.kind is not Kind.TASK or "within_ms" in plan.options or bool(items)

    def _errbacks(self) -> set[str]:
        named = (plan.options.get("errbacks", "") for plan in self.plan.values())
        return {str(number) for ranges in named for number in numbers_in(ranges)}

    def taken_back(self, step: str, *, moved: bool = False) -> None:
        """A message was taken back, because of a pause or a cancel, or to be placed with another agent."""
        self.log.append(("taken back", step))
        assert self.paused or self.cancelled or moved
        self.out.remove(step)
        if step.startswith("u"):
            self._owed.append(step[1:])

    def ended(self, step: str, outcome: str) -> None:
        """A message has an outcome; another one only after a replay of its dead letter."""
        self.log.append((outcome, step))
        before = self.outcomes.get(step)
        assert before in (None, "dead"), f"{step} was {before}, and then {outcome}"
        self.out.discard(step)
        self.outcomes[step] = outcome
        if outcome == "handled" and not step.startswith("u") and self.plan[number_of(step)].undo:
            self._owed.append(step)

    def suspended(self, step: str) -> None:
        """The message of a workflow function has ended, and the function waits for its calls; or it came too late."""
        self.log.append(("suspended", step))
        self.out.discard(step)

    def resumes(self, step: str) -> None:
        """A workflow function is executed again, also if it had failed."""
        self.outcomes.pop(step, None)

    def retried(self, step: str) -> None:
        """A step that was not handled is to begin again, of a map the items that were not.

        Its message may have been: others took its place, and these were not handled.
        """
        self.log.append(("retried", step))
        items = [one for one in self.outcomes if number_of(one) == step and self.outcomes[one] != "handled"]
        for one in {step, *items}:
            self.outcomes.pop(one, None)

    def replayed(self, step: str) -> None:
        """A dead letter of a step is out again; the step may have been retried since, and have ended otherwise."""
        self.log.append(("replayed", step))
        self.outcomes.pop(step, None)

    def over(self, counts: Mapping[str, int], states: Mapping[str, str], run_state: str) -> None:
        """The run has ended, and nothing more will happen."""
        assert not self.out
        letters = Counter(state[0] for step, state in states.items() if step[0].isdigit())
        for letter, name in {"h": "handled", "d": "dead", "e": "expired", "c": "cancelled", "k": "skipped"}.items():
            assert counts.get(name, 0) == letters[letter], f"{name}: {counts} but {letters}"
        if run_state == "completed":
            assert set(letters) <= set("hdeck"), f"completed with {letters}; {states}"
            added = steps_in_place(self.plan, states)
            # A caller, and an owner that was retried, are sent again, and then end as any message does.
            assert all(states[owner][0] in "hdec" for owner in added), f"steps in place of {added}, but {states}"
            numbers = {str(number) for number in range(self.declared)} | {str(n) for new in added.values() for n in new}
            # An errback that nobody has called never begins.
            assert numbers - {step for step in states if step.isdigit()} <= self._errbacks()
        if run_state in ("compensated", "compensation failed"):
            assert not self._owed, f"not compensated: {self._owed}"
