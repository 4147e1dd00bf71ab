"""Histories of ballots whose proposers and voters are killed, stopped and cut off: each is decided once."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from orchestrator import Orchestrator
from tests.history.linearizability import Operation, find_violation
from tests.history.models import DecideOnce
from tests.history.processes import Clients, FaultyRun
from tests.history.rounds import each_number_of_rounds
from tests.history.voters_app import VOTERS, make
from tests.support.eventually import eventually

APP = "tests.history.voters_app"


def history_of(clients: Clients) -> list[Operation]:
    calls, returns = clients.operations()
    history = []
    for key, call in calls.items():
        answer = returns.get(key)
        if answer is None and call["act"] == "read":
            continue
        ended, result = (inf, None) if answer is None else (answer["at"], answer["result"])
        result = tuple(result) if isinstance(result, list) else result
        history.append(
            Operation(call["process"], call["name"], call["act"], call["argument"], result, call["at"], ended)
        )
    return history


def wait_until_all_are_told(orchestrator: Orchestrator, clients: Clients) -> None:
    """Nobody proposes any more; the workers are there."""

    def missing() -> dict[str, Any]:
        told = {(o.name, o.argument) for o in history_of(clients) if o.argument in VOTERS}
        ballots = orchestrator.coordination.ballots(10_000)
        return {
            ballot.id: ballot.state
            for ballot in ballots
            if ballot.state == "open" or not all((ballot.id, voter) in told for voter in VOTERS)
        }

    eventually(lambda: not missing(), 60, lambda: str(missing()))


def lacking(clients: Clients, rounds: int) -> list[str]:
    """What the history has too little of to show anything."""
    history = history_of(clients)
    done = Counter((one.act, one.result) for one in history if one.act == "cancel" or one.result == "open")
    wanted = {("read", "open"): rounds, ("cancel", True): rounds, ("cancel", False): rounds}
    found = [
        f"{act} {result}: {done[act, result]}" for (act, result), count in wanted.items() if done[act, result] <= count
    ]
    decided = {one.name: one.result for one in history if one.act == "read" and one.result != "open"}
    if len(decided) <= 5 * rounds:
        found.append(f"decided: {len(decided)}")
    if all(cancelled_for is not None for _, cancelled_for in decided.values()):
        found.append("each was cancelled")
    return found


@each_number_of_rounds
def test_each_ballot_is_decided_once_and_all_are_told_the_same(tmp_path: Path, rounds: int) -> None:
    with FaultyRun("tests.history.ballot_client", tmp_path, processes=4) as faulty:
        for name in ("w1", "w2"):
            faulty.clients.start_worker(APP, name, queues="a,b,c")
        faulty.strike_all(rounds)
        clients = faulty.clients
        clients.go_on_until_enough(partial(lacking, rounds=rounds))
        clients.stop_clients()
        wait_until_all_are_told(make(faulty.url), clients)
    violation = find_violation(history_of(clients), DecideOnce())
    assert violation is None, str(violation)
