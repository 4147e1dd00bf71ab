"""What all state machines have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
MACHINES = sorted(
    str(file.relative_to(TESTS))
    for file in TESTS.rglob("*.py")
    if file != Path(__file__) and ("RuleBasedStateMachine" in (text := file.read_text()) or "MailboxMachine" in text)
)


@pytest.mark.parametrize("name", MACHINES)
def test_no_machine_gives_up_on_a_server_that_is_slow(name: str) -> None:
    """That happens once, and not again when the steps are replayed; see ``patient_redis``."""
    assert "Redis.from_url(" not in (TESTS / name).read_text()


def test_there_are_machines() -> None:
    assert "support/claims_machine.py" in MACHINES
