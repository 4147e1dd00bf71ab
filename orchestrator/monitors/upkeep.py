"""The dead-letter log's upkeep, as a chore of the monitor manager and as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery

from orchestrator.core.settings import Settings
from orchestrator.deadletters.upkeep import Keeping
from orchestrator.monitors.chores import Chore

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

TASK = "orchestrator.keep_letters"


def keeping_of(settings: Settings) -> Keeping:
    """How the settings have letters kept."""
    return Keeping(
        keep_s=settings.letters_keep_s,
        most=settings.letters_most,
        retries=settings.letters_retries,
        first_retry_s=settings.letters_first_retry_s,
    )


def install(app: Celery, orchestrator: Orchestrator) -> Chore:
    """Register the upkeep as a task, for whoever wants it at once; returns the chore."""

    def keep_letters() -> dict[str, int]:
        """Retry, park, expire and trim dead letters."""
        kept = orchestrator.keep_letters()
        return {"retried": kept.retried, "parked": kept.parked, "expired": kept.expired, "trimmed": kept.trimmed}

    # Acknowledged early, as the sweep is; and like it, one that got lost is made good by the next.
    app.task(keep_letters, name=TASK, acks_late=False, ignore_result=True, shared=False)
    return Chore(TASK, orchestrator.settings.letters_every_s, keep_letters)
