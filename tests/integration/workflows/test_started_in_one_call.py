"""A plan of at most 200 steps comes along with the start of its run; a larger one is written before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator import Orchestrator, Workflow
from orchestrator.workflows.compiling.compiler import compile_workflow
from orchestrator.workflows.run import Run
from tests.apps import workflows_app

#: Steps whose plans, with their template, are as many values as come along.
MOST = 199


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """An app without a worker."""
    made = workflows_app.make(redis_url)
    yield made
    made.app.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as made:
        yield made


def _flow(orchestrator: Orchestrator, steps: int) -> Workflow:
    flow = Workflow("many")
    for number in range(steps):
        flow.step(f"s{number}", orchestrator.app.tasks["plain.add"].s(number, 1))
    return flow


def _keys(client: Any, run: Run) -> dict[str, int]:
    """The keys of a run, and how long they are kept."""
    found = client.scan_iter(match=f"*:run:{run.uid}*", count=1000)
    return {name.partition(run.uid)[2]: client.ttl(name) for name in found}


def _hash(client: Any, run: Run, part: str = "") -> dict[str, str]:
    [key] = client.scan_iter(match=f"*:run:{run.uid}{part}", count=1000)
    found: dict[str, str] = client.hgetall(key)
    return found


@pytest.mark.parametrize(("steps", "before"), [(1, []), (MOST, []), (MOST + 1, ["HSET", "PEXPIRE"])])
def test_what_starts_a_run(orchestrator: Orchestrator, client: Any, steps: int, before: list[str]) -> None:
    orchestrator.workflows.start(_flow(orchestrator, 2)).cancel()
    flow = _flow(orchestrator, steps)
    with client.monitor() as monitor:
        run = orchestrator.workflows.start(flow)
        client.echo("started")
        seen = [one["command"] for one in _until(monitor, "ECHO started")]
    assert sorted({command.split()[0] for command in seen if run.uid in command} - {"EVALSHA"}) == before
    assert _keys(client, run) == dict.fromkeys(["", ":plan", ":templates", ":states"], -1)
    assert len(_hash(client, run, ":plan")) == steps + 1
    assert run.status().total == steps


def _until(monitor: Any, last: str) -> Iterator[dict[str, Any]]:
    for one in monitor.listen():
        if one["command"] == last:
            return
        # What a script calls is no command of a client.
        if one["client_type"] != "lua":
            yield one


def test_both_ways_write_the_same(orchestrator: Orchestrator, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = _flow(orchestrator, 3)
    flow.wait("approval", event="approved")
    along = orchestrator.workflows.start(flow)
    monkeypatch.setattr("orchestrator.workflows.compiling.plan_writer._STEPS_AT_ONCE", 2)
    before = orchestrator.workflows.start(flow)
    for part in (":plan", ":templates"):
        assert _hash(client, along, part) == _hash(client, before, part)
    own = ("id", "id_json", "started_ms")
    first, second = (
        {name: value for name, value in _hash(client, run).items() if name not in own} for run in (along, before)
    )
    assert first == second


@pytest.mark.parametrize("steps", [1, MOST + 1])
def test_another_start_with_an_id_leaves_nothing(orchestrator: Orchestrator, client: Any, steps: int) -> None:
    """Two processes start it at once, so that neither sees the other's run before its script does."""
    flow, starts = _flow(orchestrator, steps), orchestrator.workflows._backend().starts
    first = orchestrator.workflows.start(flow, workflow_id="book-1")
    compiled = compile_workflow(orchestrator.app, orchestrator.workflows._directory, flow)
    # As of an id that nobody else has, it is not looked for.
    assert starts.start(compiled, "book-1", None, is_new=True) == first.uid
    uids = {name.split(":")[2] for name in client.scan_iter(match="orc:run:*", count=1000)}
    assert uids == {first.uid}
