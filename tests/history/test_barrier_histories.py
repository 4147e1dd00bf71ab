"""Histories of parties that are killed, stopped and cut off are those of a cyclic barrier."""

from __future__ import annotations

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


@each_number_of_rounds
def test_no_party_passes_before_all_have_arrived_and_all_see_the_same(tmp_path: Path, rounds: int) -> None:
    clients = run("tests.history.barrier_client", tmp_path, rounds)
    history = history_of(clients)
    passed = [one.result for one in history if one.act == "pass"]
    assert passed.count("tripped") > 15 * rounds, (passed, clients.errors())
    assert passed.count("broken") > rounds, (passed, clients.errors())
    violation = find_violation(history, CyclicBarrier(PARTIES))
    assert violation is None, str(violation)
