"""A map over a large list: the list is read once by a worker, and no handler can change it for another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from orchestrator import Workflow
from orchestrator.core.workflows.result_path import MARK
from orchestrator.workflows.steps.arguments import StepArguments
from tests.apps import workflows_app
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess
from tests.support.workflow_cluster import APP, QUEUES

ITEM = {MARK: {"item": {"step": "0", "path": []}, "path": []}}
LARGE = [{"number": number} for number in range(2000)]


def _fill(arguments: StepArguments, item: int) -> dict[str, int]:
    filled: dict[str, int] = arguments.fill({"uid": "u", "step": f"1.{item}"}, ITEM)
    return filled


def test_the_list_is_read_once(broker: BareBroker) -> None:
    store, arguments = broker.store, StepArguments(broker.store)
    outcome = {"outcome": "handled", "result": LARGE, "attempts": 1}
    client: Redis = broker.redis
    client.hset(f"{store.keys.run('u')}:outcomes", "0", json.dumps(outcome))
    first = _fill(arguments, 0)
    client.delete(f"{store.keys.run('u')}:outcomes")
    first["number"] = -1
    assert [_fill(arguments, item)["number"] for item in (0, 1, 1999)] == [0, 1, 1999]


def test_a_result_that_may_still_change_is_read_again(broker: BareBroker) -> None:
    store, arguments = broker.store, StepArguments(broker.store)
    client: Redis = broker.redis
    dead = {"outcome": "dead", "reason": "poison", "error": "x" * 5000, "attempts": 1}
    client.hset(f"{store.keys.run('u')}:outcomes", "0", json.dumps(dead))
    assert _fill(arguments, 0) is None
    client.hset(f"{store.keys.run('u')}:outcomes", "0", json.dumps({"outcome": "handled", "result": LARGE}))
    assert _fill(arguments, 3) == {"number": 3}


@pytest.mark.parametrize(("length", "comes_along"), [(3, True), (2000, False)])
def test_a_short_result_comes_with_the_message_that_needs_it(redis_url: str, length: int, comes_along: bool) -> None:
    with WorkerProcess(APP, redis_url, queues=QUEUES):
        orchestrator = workflows_app.make(redis_url)
        text, note = orchestrator.app.tasks["plain.text"], orchestrator.app.tasks["plain.note"]
        flow = Workflow("inputs")
        result = flow.step("first", text.s(length)).result
        flow.step("second", note.s(result).set(queue="unserved"))
        orchestrator.workflows.start(flow)
        store = orchestrator.runtime.store
        stream = store.keys.stream("unserved", store.levels[1])
        entries: Any = eventually(lambda: store.client.xrange(stream))
        fields = entries[0][1]
        inputs = json.loads(fields[b"m"])["headers"]["orc"]["run"]["refs"]
        assert (inputs["0"]["result"] if comes_along else inputs) == ("xxx" if comes_along else 1)
        orchestrator.app.close()


def test_what_comes_with_a_message_is_not_read(broker: BareBroker) -> None:
    run = {"uid": "u", "step": "1", "refs": {"0": {"outcome": "handled", "result": [1]}, "2": None}}
    value = [{MARK: {"step": "0", "path": [0]}}, {MARK: {"step": "2", "path": []}}]
    assert StepArguments(broker.store).fill(run, value) == [1, None]
