"""The schedules under chaos: an agent that writes each fire to the witness, and the schedules that send to it."""

from __future__ import annotations

import random

from chaos.witness import witness
from orchestrator import Agent, Context, Message, Orchestrator, Retry, handles

#: The agent's name, and its mailbox.
CLOCK = "clock"

#: The shortest and the longest interval, in seconds.
_INTERVALS_S = (0.5, 5.0)


class Tick(Message):
    """A fire."""


class Clock(Agent):
    """Handles the fires of all schedules."""

    name = CLOCK
    retry = Retry(max_retries=3)

    @handles(Tick)
    def tick(self, message: Tick, context: Context) -> None:
        """Write the fire to the witness."""
        at = context.scheduled_for
        witness().write(
            "tick",
            node=context.worker,
            schedule=context.metadata["schedule"],
            nominal_ms=0 if at is None else round(at.timestamp() * 1000),
            delivery=context.id,
        )


def add_schedules(orchestrator: Orchestrator, number: int, seed: int) -> None:
    """Add as many schedules, with intervals that the seed gives."""
    draw = random.Random(seed)
    for n in range(number):
        every_s = round(draw.uniform(*_INTERVALS_S), 1)
        misfire = draw.choice(["coalesce", "all"])
        orchestrator.schedules.add(f"chaos-{n:03d}", CLOCK, Tick(), every_s=every_s, misfire=misfire)


def pause_schedules(orchestrator: Orchestrator) -> None:
    """Pause all of them, so that their messages can be counted."""
    for schedule_id in list(orchestrator.schedules):
        orchestrator.schedules[schedule_id].pause("the load has ended")
