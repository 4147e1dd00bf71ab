"""``ballots``: a table for people, a document for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import time

import pytest

from orchestrator import Majority, Orchestrator, Quorum
from orchestrator.cli.coordination import ballots as module
from orchestrator.cli.coordination.ballots import ballots
from orchestrator.coordination.ballots.backend import BallotState
from tests.apps import ballots_app
from tests.apps.ballots_app import Scale
from tests.support.cluster import NO_REDIS
from tests.support.command_line import invoke


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    made = ballots_app.make(NO_REDIS, eager=True)
    yield made
    made.app.close()


def test_without_a_ballot_none_is_listed(orchestrator: Orchestrator) -> None:
    assert json.loads(invoke(orchestrator.app, ballots, "--json").stdout) == {"ballots": []}
    assert "none" in invoke(orchestrator.app, ballots).stdout


def test_ballots_are_listed_the_last_one_first(orchestrator: Orchestrator) -> None:
    proposal = Scale(n=3, says={"a": "approve", "b": "reject", "c": "raise"})
    first = orchestrator.propose(proposal, ["a", "b", "c"], Majority())
    second = orchestrator.propose(proposal, ["a"], Quorum(1))
    result = invoke(orchestrator.app, ballots, "--json")
    assert result.exit_code == 0, result.stderr
    last, before = json.loads(result.stdout)["ballots"]
    assert (last["id"], last["state"], last["of"]) == (second.id, "accepted", 1)
    counts = [before[name] for name in ("approved", "rejected", "silent", "of")]
    assert (before["id"], before["message"], before["state"], counts) == (first.id, "Scale", "rejected", [1, 1, 1, 3])
    assert before["proposed_s"] <= before["decided_s"] < before["ends_s"]
    (only,) = json.loads(invoke(orchestrator.app, ballots, "--json", "--limit", "1").stdout)["ballots"]
    assert only == last
    table = invoke(orchestrator.app, ballots).stdout
    assert all(text in table for text in ("Ballots: 2", "Scale", "accepted", "rejected")), table


def test_an_open_ballot_shows_when_it_times_out() -> None:
    now = time()
    state = BallotState("b", "Scale", "open", 1, 0, 0, 3, "all who vote", now - 5, now + 61)
    assert module._row(state, now)[2:] == ("open", "1", "0", "0", "3", "all who vote", "5s ago", "1m1s")
