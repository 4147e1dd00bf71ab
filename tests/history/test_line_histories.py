"""Histories of those who wait in line while they are killed, stopped and cut off: no ticket is overtaken."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import inf
from pathlib import Path

from tests.history.line_client import WAIT_S
from tests.history.linearizability import Operation, find_violation
from tests.history.models import Line
from tests.history.processes import Clients, run
from tests.history.rounds import each_number_of_rounds


def history_of(clients: Clients) -> list[Operation]:
    """The operations. A process that was struck may have lost its place since then, and have come back for another."""
    calls, returns = clients.operations()
    history: list[Operation] = []
    for key, call in calls.items():
        process, name, act, ticket = call["process"], call["name"], call["act"], call["argument"]
        answer = returns.get(key)
        if act == "arrive":
            seen_at = inf if answer is None else answer["at"]
            history.append(Operation(process, name, "arrive", ticket, None, call["at"], seen_at))
            continue
        struck_at = clients.first_strike(process, call["at"])
        result = "" if answer is None else answer["result"]
        if result == "served":
            assert answer is not None
            history.append(Operation(process, name, "serve", ticket, None, call["at"], answer["at"]))
            if struck_at < answer["at"]:
                history.append(Operation(process, name, "leave", ticket, None, struck_at))
                history.append(Operation(process, name, "arrive", ticket, None, struck_at))
            continue
        if result == "taken":
            # When its time was over, it has asked once more.
            left_at = min(call["at"] + WAIT_S - 0.01, struck_at)
            history.append(Operation(process, name, "leave", ticket, None, left_at))
        else:
            # It may have been served, and was struck before it knew.
            history.append(Operation(process, name, "serve", ticket, None, call["at"]))
    return history


def lacking(clients: Clients, rounds: int) -> list[str]:
    """What the history has too little of to show anything."""
    history, (_, returns) = history_of(clients), clients.operations()
    served = Counter(one.name for one in history if one.act == "serve" and one.is_known)
    found = [f"{name}: {served[name]} served" for name in ("lease", "semaphore") if served[name] <= 30 * rounds]
    stood = [answer["result"] for answer in returns.values() if isinstance(answer["result"], int)]
    if sum(ahead > 2 for ahead in stood) <= 20 * rounds:
        found.append(f"there was no line: {stood}")
    if not any(one.act == "serve" and not one.is_known for one in history):
        found.append("nobody was struck in line")
    return found


@each_number_of_rounds
def test_no_ticket_is_overtaken(tmp_path: Path, rounds: int) -> None:
    clients = run("tests.history.line_client", tmp_path, rounds, partial(lacking, rounds=rounds))
    history = history_of(clients)
    violation = find_violation(history, Line())
    assert violation is None, str(violation)
