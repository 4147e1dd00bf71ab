"""The error that ``Task.replace`` raises in a step of a workflow."""

from __future__ import annotations

from celery.exceptions import Ignore

from orchestrator.agents.expand import Expand


class StepReplaced(Ignore):
    """Other steps take the place of the one that runs. As Celery's own, it ends the task at once."""

    def __init__(self, steps: Expand) -> None:
        super().__init__("Replaced by new steps")
        self.steps = steps
