"""An error that escapes Celery's tracer, or a callback of the pool, settles the message and stops no worker."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import Constant, Dead, Handled, Retry
from orchestrator.sending.ledger import read_ledger, total
from orchestrator.transport.redis import commands
from tests.support.ends import Ends
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

POOLS = ["solo", "threads", "gevent", "prefork"]

#: More than a worker with one process prefetches.
COUNT = 10


def _settled(ends: Ends, w: WorkerProcess, count: int) -> None:
    def all_ended() -> bool:
        row = total(read_ledger(ends.store))
        return row.accepted >= count and row.pending == 0

    eventually(all_ended, timeout_s=60, describe=w.log)
    ends.redis.delete("test:runs")
    ends.sig("note", "afterwards").apply_async(ignore_result=True)
    eventually(lambda: ends.redis.hget("test:runs", "afterwards"), timeout_s=20, describe=w.log)


def _put(ends: Ends, embed: Any, number: int) -> str:
    """A message whose canvas is not what Celery writes."""
    body = base64.b64encode(json.dumps([[f"n{number}"], {}, embed]).encode()).decode()
    headers = {"lang": "py", "task": "note", "id": f"odd{number}", "retries": 0, "ignore_result": False}
    properties = {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": str(number)}
    message = {"body": body, "content-type": "application/json", "content-encoding": "utf-8"}
    raw = json.dumps({**message, "headers": headers, "properties": properties})
    k = ends.store.keys
    ends.store.run(*commands.publish(k.stream("celery", ends.store.levels[1]), k.ledger("celery"), [raw]))
    return f"odd{number}"


ODD: list[Any] = [
    {"chain": {}},
    {"chain": {"task": "note"}},
    {"chain": [1]},
    {"chain": [{"task": "note", "subtask_type": "nonsense"}]},
    {"callbacks": "note"},
    {"callbacks": [None]},
    {"callbacks": [{"options": {}}]},
    {"errbacks": 7},
    {"chord": "rubbish"},
    {"chord": {"task": "collected", "args": "x"}},
    {"chord": {"task": "collected", "args": [], "kwargs": {}, "options": {}}},
    {"chain": [{"task": "note", "args": [], "kwargs": {}, "options": {"countdown": "soon"}}]},
    {"callbacks": [{"task": "collected", "args": [], "kwargs": {}, "options": {"queue": {"x": 1}}}]},
]


@pytest.mark.parametrize(("pool", "bare"), [*((pool, False) for pool in POOLS), ("threads", True), ("solo", True)])
def test_a_canvas_that_is_rubbish_ends_and_stops_no_worker(
    make_ends: Callable[..., Ends], pool: str, bare: bool
) -> None:
    ends = make_ends(bare=bare)
    for number, embed in enumerate(ODD):
        _put(ends, embed, number)
    with ends.worker(pool) as w:
        _settled(ends, w, len(ODD))
        assert w.stop() == 0
    assert ends.ledger().lost == 0


@pytest.mark.parametrize("how", ["away", "refuses", "exhausted"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_result_backend_that_cannot_store_costs_no_outcome(
    make_ends: Callable[..., Ends], pool: str, how: str
) -> None:
    ends = make_ends()
    orchestrator = ends.app.orchestrator
    flaky = {"ENDS_BACKEND": f"tests.apps.flaky_backend:FlakyBackend+{ends.url}"}
    with ends.worker(pool, environment=flaky) as w:
        orchestrator.send(ends.sig("note", "first")).wait(timeout_s=20)
        ends.redis.set("test:backend", how)
        handled = [orchestrator.send(ends.sig("note", f"n{n}")) for n in range(COUNT)]
        failed = [orchestrator.send(ends.sig("fails", f"f{n}"), retry=Retry(max_retries=0)) for n in range(3)]
        repeated = orchestrator.send(ends.sig("fails_once", "r"), retry=Retry(max_retries=1, backoff=Constant(0.01)))
        for n, delivery in enumerate(handled):
            assert delivery.wait(timeout_s=60) == Handled(f"n{n}", 1)
        for delivery in failed:
            outcome = delivery.wait(timeout_s=60)
            assert isinstance(outcome, Dead)
            assert outcome.error.startswith("ValueError")
        assert repeated.wait(timeout_s=60) == Handled("r", 2)
        # Each has run once, and is in no dead letter for what the backend did.
        assert set(ends.redis.hvals("test:runs")) == {"1", "2"}
        ends.redis.delete("test:backend")
        # What could not be stored then, is stored now.
        for n, delivery in enumerate(handled):
            assert ends.state(ends.app.AsyncResult(delivery.id), "SUCCESS", w) == f"n{n}"
        for delivery in failed:
            assert isinstance(ends.state(ends.app.AsyncResult(delivery.id), "FAILURE", w), ValueError)
        _settled(ends, w, COUNT + 5)
        ends.no_endings_left()
    assert len(orchestrator.dead_letters.list(100)) == 3


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_the_transport_alone_goes_on_when_the_backend_cannot_store(make_ends: Callable[..., Ends], pool: str) -> None:
    ends = make_ends(bare=True)
    flaky = {"ENDS_BACKEND": f"tests.apps.flaky_backend:FlakyBackend+{ends.url}"}
    with ends.worker(pool, environment=flaky) as w:
        ends.redis.set("test:backend", "refuses")
        for n in range(COUNT):
            ends.sig("note", f"n{n}").apply_async()
        _settled(ends, w, COUNT)
    assert ends.ledger().lost == 0
