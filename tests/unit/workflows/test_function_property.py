"""A workflow function, executed anew at each of its calls, whatever is killed, does what it does if it runs once."""

from __future__ import annotations

from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st

from orchestrator import StepFailed
from orchestrator.core.workflows.run_calls import CallList
from tests.support.drawn_examples import times_factor
from tests.support.function_programs import Direct, Nested, Program, SteppedRun, programs, run_program

#: More moves than any program takes.
MANY = 5000


@settings(max_examples=times_factor(150), deadline=None)
@given(program=programs(), budget=st.sampled_from([1, 2, 5, 200]), seed=st.integers(0, 1_000_000))
def test_it_is_as_if_it_had_run_once(program: Program, budget: int, seed: int) -> None:
    chance = Random(seed)
    direct = Direct()
    failed: StepFailed | None = None
    expected = None
    try:
        expected = run_program(direct, program)
    except StepFailed as error:
        failed = error
    run = SteppedRun(program, budget)
    for _ in range(MANY):
        if run.rule.has_ended:
            break
        _move(run, chance)
    assert run.rule.has_ended, f"it hangs: {run.rule.states}"
    outcome = run.rule.outcomes["0"]
    if failed is None:
        assert (outcome["outcome"], outcome.get("result")) == ("handled", expected)
    else:
        assert outcome["outcome"] == "dead"
        assert outcome["error"].startswith("StepFailed: ")
    event(f"failed: {failed is not None}")
    # Each call is one step, and each message but those of functions was sent once.
    steps = [number for number in run.rule.states if number.isdigit() and number != "0"]
    assert len(steps) == direct.asked
    for step, count in run.sends.items():
        batches = CallList.from_text(run.rule.calls.get(step)).batches
        assert count == 1 + len(batches), f"{step} was sent {count} times, and has {len(batches)} batches"
        assert not batches or isinstance(run._messages[step], Nested)


def _move(run: SteppedRun, chance: Random) -> None:
    if chance.random() < (0.5 if run.rule.paused else 0.05):
        run.toggle_pause()
    moves = ["advance", "post"]
    if run.pending:
        moves += ["deliver"] * 5 + ["kill"] * 2
    if run.timers:
        moves += ["fire"] * 2
    at = chance.randrange(1000)
    match chance.choice(moves):
        case "advance":
            run.advance()
        case "post":
            run.post(chance.choice(["a", "b"]))
        case "fire":
            run.fire(at)
        case move:
            run.deliver(at, killed=move == "kill")
