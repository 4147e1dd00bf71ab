"""The monitor manager warns of limits that differ between workers."""

from __future__ import annotations

import logging

import pytest

from orchestrator.core.admission.declared_limits import Difference
from orchestrator.maintenance.differing_limits import DifferingLimitsCheck


def difference(value: str, *incarnations: str, agent: str = "ledgers") -> Difference:
    return Difference(agent, "concurrency", [("limit=2", ["a@h1:1#1"]), (value, incarnations)])


def test_one_warning_for_what_two_runs_in_a_row_have_found(caplog: pytest.LogCaptureFixture) -> None:
    four, five = difference("limit=4", "b@h2:1#1"), difference("limit=5", "b@h2:1#1")
    # Another worker that declares the same is no other difference.
    again = difference("limit=4", "b@h2:1#1", "c@h3:1#1")
    looks = iter([[four], [], [four], [again], [four], [five], [five], [], [four], [four]])
    check = DifferingLimitsCheck(lambda: next(looks))
    with caplog.at_level(logging.WARNING, logger="orchestrator.maintenance.differing_limits"):
        assert [check.run() for _ in range(10)] == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert [record.getMessage() for record in caplog.records] == [str(again), str(five), str(four)]


def test_it_names_twenty(caplog: pytest.LogCaptureFixture) -> None:
    many = [difference("limit=4", "b", agent=f"agent-{n:02}") for n in range(25)]
    check = DifferingLimitsCheck(lambda: many)
    with caplog.at_level(logging.WARNING, logger="orchestrator.maintenance.differing_limits"):
        assert [check.run(), check.run(), check.run()] == [0, 25, 0]
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == "5 more limits differ between workers; `agents` lists all"
