"""The maintenance of dead letters as a chore of the monitor manager."""

from __future__ import annotations

from orchestrator.core.settings import Settings
from orchestrator.deadletters.log import DeadLetters
from orchestrator.maintenance.dead_letters import MaintenanceResult, RetentionPolicy, run_maintenance

CHORE = "orchestrator.dead-letter-maintenance"


def maintain_dead_letters(log: DeadLetters, settings: Settings) -> MaintenanceResult:
    """Replay, park, expire and trim dead letters, as the settings say.

    Raises:
        BrokerUnavailable: Redis is away; the next run continues from here.
    """
    return run_maintenance(log, retention_policy_of(settings))


def retention_policy_of(settings: Settings) -> RetentionPolicy:
    """The retention policy that the settings describe."""
    return RetentionPolicy(
        ttl_s=settings.dead_letter_ttl_s,
        max_count=settings.dead_letter_max_count,
        auto_replays=settings.dead_letter_auto_replays,
        first_replay_s=settings.dead_letter_first_replay_s,
    )
