"""Histories of parties that are killed, stopped and cut off are those of a cyclic barrier."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import inf
from pathlib import Path

from tests.history.barrier_client import NAME, PARTIES
from tests.history.linearizability import Operation, find_violation
from tests.history.models import CyclicBarrier
from tests.history.processes import Clients, run
from tests.history.rounds import each_number_of_rounds


def history_of(clients: Clients) -> list[Operation]:
    calls, returns = clients.operations()
    history = []
    for key, call in calls.items():
        answer = returns.get(key)
        unknown_pass = answer is None and call["act"] == "pass"
        if unknown_pass or (answer is not None and answer["result"] == "refused"):
            continue
        ended, result = (inf, None) if answer is None else (answer["at"], answer["result"])
        history.append(Operation(call["process"], NAME, call["act"], call["argument"], result, call["at"], ended))
    return history


def lacking(clients: Clients, rounds: int) -> list[str]:
    """What the history has too little of to show anything."""
    passed = Counter(one.result for one in history_of(clients) if one.act == "pass")
    wanted = {"tripped": 15 * rounds, "broken": rounds}
    return [f"{result}: {passed[result]}" for result, count in wanted.items() if passed[result] <= count]


@each_number_of_rounds
def test_no_party_passes_before_all_have_arrived_and_all_see_the_same(tmp_path: Path, rounds: int) -> None:
    clients = run("tests.history.barrier_client", tmp_path, rounds, partial(lacking, rounds=rounds))
    history = history_of(clients)
    violation = find_violation(history, CyclicBarrier(PARTIES))
    assert violation is None, str(violation)
