"""A run whose key something else has written to keeps no other run from being repaired."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator, Workflow
from orchestrator.workflows.redis.run_repair import RunRepair
from tests.support.coordination_under_test import close
from tests.support.living_agents import Page, mail, make, reader


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    made = make(redis_url, reader("a"))
    yield made
    close(made)


@pytest.mark.parametrize("part", ["", ":states"])
def test_runs_beside_one_with_a_broken_key_are_repaired(
    orchestrator: Orchestrator, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: each search ended at that run, so a step behind it whose message was nowhere waited for ever."""
    redis = orchestrator.runtime.redis
    client: Any = redis.store.client
    runs = []
    for number in range(3):
        flow = Workflow("pages")
        flow.step("page", Page(number=number), to="a")
        runs.append(orchestrator.workflows.start(flow))
    for broken in (runs[0], runs[2]):
        client.delete(f"{redis.store.keys.run(broken.uid)}{part}")
        client.set(f"{redis.store.keys.run(broken.uid)}{part}", "of somebody else")
    client.delete(*redis.store.streams("a"))
    repair = RunRepair(redis.runs.reads, lambda: redis.store, 0)
    assert sum(repair.run(5) for _ in range(2)) == 1
    (message,) = mail(orchestrator, "a")["a"]
    assert message["headers"]["id"].startswith(runs[1].uid)
    named = [text for one in caplog.records if "is tried again" in (text := one.getMessage())]
    assert [text.partition(" is tried")[0] for text in named] == [
        f"the search through run {one.uid}" for one in sorted((runs[0], runs[2]), key=_place(orchestrator))
    ]


@pytest.mark.parametrize("state", ["", "sent"])
def test_runs_beside_one_with_a_state_that_something_else_has_written_are_repaired(
    orchestrator: Orchestrator, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the search ended at an empty state, and each slice of it at one without an entry's id."""
    redis = orchestrator.runtime.redis
    client: Any = redis.store.client
    runs = []
    for number in range(3):
        flow = Workflow("pages")
        flow.step("page", Page(number=number), to="a")
        runs.append(orchestrator.workflows.start(flow))
    broken = (runs[0], runs[2])
    for one in broken:
        states = f"{redis.store.keys.run(one.uid)}:states"
        client.hset(states, mapping=dict.fromkeys(client.hkeys(states), state))
    client.delete(*redis.store.streams("a"))
    repair = RunRepair(redis.runs.reads, lambda: redis.store, 0)
    assert repair.run(5) == 1
    (message,) = mail(orchestrator, "a")["a"]
    assert message["headers"]["id"].startswith(runs[1].uid)
    named = [text for one in caplog.records if "is tried again" in (text := one.getMessage())]
    assert all(any(one.uid in text for text in named) for one in broken)


def _place(orchestrator: Orchestrator) -> Any:
    uids = list(orchestrator.runtime.redis.runs.reads.uids())
    return lambda run: uids.index(run.uid)
