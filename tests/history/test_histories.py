"""Histories of processes that are killed, stopped and cut off are those of a mutex, a semaphore and an election."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from tests.history.linearizability import Operation, find_violation
from tests.history.models import Counter, Election, Permits
from tests.history.processes import Clients, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def history_of(clients: Clients) -> list[Operation]:
    """The operations. What was granted and never released in order may have ended at any time after that."""
    calls, returns = clients.operations()
    history: list[Operation] = []
    releases = {key: call for key, call in calls.items() if call["act"] in ("release", "resign")}
    released = {(call["name"], call["argument"]) for key, call in releases.items() if key in returns}
    for key, call in calls.items():
        answer = returns.get(key)
        if (answer is not None and answer["result"] == "taken") or (answer is None and key in releases):
            continue
        ended = inf if answer is None else answer["at"]
        result = None if answer is None else answer["result"]
        name, act = call["name"], call["act"]
        history.append(Operation(call["process"], name, act, call["argument"], result, call["at"], ended))
        grants = act in ("acquire", "campaign") and result is not None
        if grants and (name, result) not in released:
            end = "resign" if act == "campaign" else "release"
            history.append(Operation(call["process"], name, end, result, None, ended))
    return history


@pytest.fixture
def history(tmp_path: Path) -> list[Operation]:
    return history_of(run("tests.history.client", tmp_path))


def test_every_grant_is_one_that_can_be_put_in_order(history: list[Operation]) -> None:
    by_name: dict[str, list[Operation]] = {}
    for operation in history:
        by_name.setdefault(operation.name, []).append(operation)
    granted = {name: sum(o.act in ("acquire", "campaign") for o in ops) for name, ops in by_name.items()}
    assert all(granted[name] > 30 for name in ("lease", "semaphore", "election")), granted
    for name, model in (("lease", Permits()), ("semaphore", Permits(2)), ("election", Election())):
        violation = find_violation(by_name[name], model)
        assert violation is None, str(violation)
    violation = find_violation(by_name["checked"], Counter())
    assert violation is None, f"with tokens, the storage loses nothing: {violation}"
