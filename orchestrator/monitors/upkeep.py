"""The dead-letter log's upkeep, as a chore of the monitor manager."""

from __future__ import annotations

from orchestrator.core.settings import Settings
from orchestrator.deadletters.upkeep import Keeping

CHORE = "orchestrator.keep_letters"


def keeping_of(settings: Settings) -> Keeping:
    """How the settings have letters kept."""
    return Keeping(
        keep_s=settings.letters_keep_s,
        most=settings.letters_most,
        retries=settings.letters_retries,
        first_retry_s=settings.letters_first_retry_s,
    )
