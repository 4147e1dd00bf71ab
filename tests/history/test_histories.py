"""Histories of processes that are killed, stopped and cut off are those of a mutex, a semaphore and an election."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from math import inf
from pathlib import Path

import pytest

from tests.history.linearizability import Operation, find_violation
from tests.history.models import Counter as GuardedCounter
from tests.history.models import Election, Permits
from tests.history.processes import Clients, run
from tests.history.rounds import each_number_of_rounds


def history_of(clients: Clients) -> list[Operation]:
    """The operations. What was granted, and not released by its process, may have ended once that was struck."""
    calls, returns = clients.operations()
    history: list[Operation] = []
    releases = {key: call for key, call in calls.items() if call["act"] in ("release", "resign")}
    released = {(call["name"], call["argument"]) for key, call in releases.items() if key in returns}
    # Who was struck while it released may have released before the strike.
    began_to_release = {(call["name"], call["argument"]): call["at"] for call in releases.values()}
    # Of a candidate that was killed nobody knows the number of its term, if it got one.
    terms = {answer["result"] for key, answer in returns.items() if calls[key]["act"] == "campaign"} | {None}
    for key, call in calls.items():
        answer = returns.get(key)
        if (answer is not None and answer["result"] == "taken") or (answer is None and key in releases):
            continue
        if call["act"] == "leader" and (answer is None or answer["result"] not in terms):
            continue
        ended = inf if answer is None else answer["at"]
        result = None if answer is None else answer["result"]
        name, act = call["name"], call["act"]
        history.append(Operation(call["process"], name, act, call["argument"], result, call["at"], ended))
        grants = act in ("acquire", "campaign") and result is not None
        if grants and (name, result) not in released:
            end = "resign" if act == "campaign" else "release"
            struck_at = clients.first_strike(call["process"], call["at"])
            ended_from = min(struck_at, began_to_release.get((name, result), inf))
            history.append(Operation(call["process"], name, end, result, None, ended_from))
    return history


@pytest.mark.parametrize("answered", [True, False], ids=["released", "struck while it released"])
def test_a_release_that_nobody_saw_may_have_come_before_the_strike(tmp_path: Path, answered: bool) -> None:
    lines = [
        {"process": "p1", "number": 0, "at": 1.0, "name": "election", "act": "campaign", "argument": None},
        {"process": "p1", "number": 0, "at": 2.0, "result": 5},
        {"process": "p1", "number": 1, "at": 3.0, "name": "election", "act": "resign", "argument": 5},
        {"process": "p2", "number": 0, "at": 1.5, "name": "election", "act": "campaign", "argument": None},
        {"process": "p2", "number": 0, "at": 4.0, "result": 9},
    ]
    if answered:
        lines.append({"process": "p1", "number": 1, "at": 4.5, "result": None})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clients = Clients("nothing", "", "", tmp_path)
    clients.struck["p1"] = [(6.0, 6.1)]
    assert find_violation(history_of(clients), Election()) is None


def lacking(clients: Clients, rounds: int) -> list[str]:
    """What the history has too little of to show anything."""
    done = Counter((one.name, one.act) for one in history_of(clients) if one.result is not None)
    granted = [("lease", "acquire"), ("semaphore", "acquire"), ("election", "campaign")]
    wanted = dict.fromkeys(granted, 15 * rounds) | {("election", "leader"): 5 * rounds}
    return [f"{name}: {act} {done[name, act]}" for (name, act), count in wanted.items() if done[name, act] <= count]


@each_number_of_rounds
def test_every_grant_is_one_that_can_be_put_in_order(tmp_path: Path, rounds: int) -> None:
    clients = run("tests.history.client", tmp_path, rounds, partial(lacking, rounds=rounds))
    by_name: dict[str, list[Operation]] = {}
    for operation in history_of(clients):
        by_name.setdefault(operation.name, []).append(operation)
    for name, model in (("lease", Permits()), ("semaphore", Permits(2)), ("election", Election())):
        violation = find_violation(by_name[name], model)
        assert violation is None, str(violation)
    violation = find_violation(by_name["checked"], GuardedCounter())
    assert violation is None, f"with tokens, the storage loses nothing: {violation}"
