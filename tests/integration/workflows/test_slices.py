"""What a run does at once is bounded: no script sends, takes back or counts more than some steps, and all are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from orchestrator import Orchestrator, Workflow
from orchestrator.transport.store import Store
from orchestrator.workflows.run import Run
from tests.apps import workflows_app
from tests.apps.workflows_app import Square

#: Of so few as the first Redis keeps the states packed, and a scan returns all of them.
SIZES = (500, 1000)

#: Steps that one script deals with: BUDGET in Lua, and of those that are looked through a page of HSCAN more.
MOST = 200


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """An app without a worker."""
    made = workflows_app.make(redis_url)
    yield made
    made.app.close()


def _pending(orchestrator: Orchestrator) -> int:
    store = orchestrator.runtime.store
    client: Any = store.client
    return sum(client.xlen(store.keys.stream("counter", level)) for level in store.levels)


def _wide(orchestrator: Orchestrator, steps: int) -> Run:
    flow = Workflow("wide", on_failure="continue")
    event = flow.wait("event", event="go")
    squares = [flow.step(f"s{n}", Square(number=n), to="counter", after=event) for n in range(steps)]
    flow.join("end", after=squares)
    return orchestrator.workflows.start(flow)


ACTIONS: dict[str, tuple[Callable[[Run], Any], Callable[[Run], Any], int]] = {
    "release": (lambda run: None, lambda run: run.post("go"), 1),
    "pause": (lambda run: run.post("go"), lambda run: run.pause(), 0),
    "resume": (lambda run: (run.post("go"), run.pause()), lambda run: run.resume(), 1),
    "cancel": (lambda run: run.post("go"), lambda run: run.cancel(), 0),
}


@pytest.mark.parametrize("steps", SIZES)
@pytest.mark.parametrize("action", ACTIONS)
def test_no_script_deals_with_more_than_some_steps(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch, action: str, steps: int
) -> None:
    before, act, pending = ACTIONS[action]
    run = _wide(orchestrator, steps)
    before(run)
    seen = [_pending(orchestrator)]
    ask = Store.run

    def counted(store: Store, *call: Any) -> Any:
        answer = ask(store, *call)
        seen.append(_pending(orchestrator))
        return answer

    monkeypatch.setattr(Store, "run", counted)
    act(run)
    monkeypatch.undo()
    moved = [abs(after - was) for was, after in pairwise(seen)]
    assert seen[-1] == pending * steps
    assert 0 < max(moved) <= MOST
    assert len([one for one in moved if one]) >= steps // MOST
    assert orchestrator.runtime.store.client.exists(orchestrator.runtime.store.keys.busy_runs) == 0
