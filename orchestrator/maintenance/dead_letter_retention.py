"""The dead-letter log's upkeep, as a chore of the monitor manager."""

from __future__ import annotations

from orchestrator.core.settings import Settings
from orchestrator.maintenance.dead_letters import RetentionPolicy

CHORE = "orchestrator.keep_letters"


def retention_policy_of(settings: Settings) -> RetentionPolicy:
    """How the settings have letters kept."""
    return RetentionPolicy(
        keep_s=settings.dead_letter_ttl_s,
        most=settings.dead_letter_max_count,
        retries=settings.dead_letter_auto_replays,
        first_retry_s=settings.dead_letter_first_replay_s,
    )
