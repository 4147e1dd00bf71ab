"""Runs a state machine of Hypothesis against a real server."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.support.drawn_examples import times_factor


def drive_machine(
    machine: type[RuleBasedStateMachine], variable: str, *, examples: int = 25, steps: int = 30, **options: Any
) -> None:
    """Run as many examples as the environment's ``variable`` says; ``examples`` if it is not set, more at random."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get(variable, times_factor(examples))),
            stateful_step_count=steps,
            deadline=None,
            database=None,
            # A failure is reported as it was found: shrinking it takes minutes.
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            **options,
        ),
    )
