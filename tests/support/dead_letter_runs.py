"""Runs maintenance of dead letters, and lists letter ids."""

from __future__ import annotations

from typing import Any

from orchestrator.deadletters.log import DeadLetters
from orchestrator.maintenance import dead_letters
from orchestrator.maintenance.dead_letters import MaintenanceResult, RetentionPolicy

RETRYING = RetentionPolicy(auto_replays=3, first_replay_s=60)


def run_maintenance(log: DeadLetters, retention: RetentionPolicy) -> MaintenanceResult:
    """A run that has all the time it needs, however slow the machine is."""
    return dead_letters.run_maintenance(log, retention, budget_s=60)


def ids(letters: Any) -> list[str]:
    return [letter.id for letter in letters]
