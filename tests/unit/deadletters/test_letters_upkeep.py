"""The dead-letter log's upkeep, as the monitor manager sees it."""

from __future__ import annotations

from orchestrator.maintenance.dead_letter_retention import maintain_dead_letters, retention_policy_of
from orchestrator.maintenance.dead_letters import MaintenanceResult
from tests.apps import agents_app

NOWHERE = "redis://127.0.0.1:1/0"


def test_the_upkeep_keeps_letters_as_the_settings_say() -> None:
    orchestrator = agents_app.make(NOWHERE, eager=True, dead_letter_max_count=2)
    for _ in range(5):
        orchestrator.send("worker", agents_app.Broken())
    assert maintain_dead_letters(orchestrator.dead_letters, orchestrator.settings) == MaintenanceResult(trimmed=3)
    assert orchestrator.dead_letters.count() == 2


def test_every_setting_reaches_it() -> None:
    settings = agents_app.make(
        NOWHERE, dead_letter_ttl_s=57, dead_letter_max_count=6, dead_letter_auto_replays=4, dead_letter_first_replay_s=7
    ).settings
    retention = retention_policy_of(settings)
    assert (retention.ttl_s, retention.max_count, retention.auto_replays, retention.first_replay_s) == (57, 6, 4, 7)
