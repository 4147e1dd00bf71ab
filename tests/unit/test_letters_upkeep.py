"""The dead-letter log's upkeep, as the monitor manager sees it."""

from __future__ import annotations

from orchestrator.deadletters.upkeep import Kept
from orchestrator.monitors.upkeep import keeping_of
from tests.apps import agents_app as house

NOWHERE = "redis://127.0.0.1:1/0"


def test_the_upkeep_keeps_letters_as_the_settings_say() -> None:
    orchestrator = house.make(NOWHERE, eager=True, letters_most=2)
    for _ in range(5):
        orchestrator.send("worker", house.Broken())
    assert orchestrator.keep_letters() == Kept(trimmed=3)
    assert orchestrator.dead_letters.count() == 2


def test_every_setting_reaches_it() -> None:
    settings = house.make(
        NOWHERE, letters_keep_s=57, letters_most=6, letters_retries=4, letters_first_retry_s=7
    ).settings
    keeping = keeping_of(settings)
    assert (keeping.keep_s, keeping.most, keeping.retries, keeping.first_retry_s) == (57, 6, 4, 7)
