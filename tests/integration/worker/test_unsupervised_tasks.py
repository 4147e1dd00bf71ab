"""What cannot be supervised is refused by name, or ends by name where it arrives all the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Dead, Handled
from orchestrator.core.errors import InvalidPolicy
from orchestrator.embedded import EmbeddedServer
from tests.apps import batches
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

APP = "tests.apps.batches"
WAIT_S = 20

STRATEGY = "its Strategy is tests.apps.batches:Batches.Strategy, which hands messages to the pool by itself"
ASYNC = "it is an async function; Celery's pools run plain functions"
GENERATOR = "it is a generator function; Celery's pools run plain functions"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def worker(url: str) -> Iterator[WorkerProcess]:
    with WorkerProcess(APP, url, queues="celery,asked") as worker:
        yield worker


def knows_nothing_of_them(app: Any) -> Any:
    """A sender that has only the tasks' names."""
    for name in ("plain.collect", "plain.sleeps", "plain.yields"):
        app.tasks.pop(name)
    return app


@pytest.mark.parametrize("eager", [False, True], ids=["broker", "eager"])
@pytest.mark.parametrize(
    ("task", "why"), [("plain.collect", STRATEGY), ("plain.sleeps", ASYNC), ("plain.yields", GENERATOR)]
)
def test_a_send_is_refused_where_the_task_is_known(url: str, eager: bool, task: str, why: str) -> None:
    app = batches.make(url, eager=eager)
    for send in (
        lambda: app.orchestrator.send(app.tasks[task].s("a")),
        lambda: app.orchestrator.call(app.tasks[task].s("a"), timeout_s=1),
    ):
        with pytest.raises(InvalidPolicy) as refused:
            send()
        assert task in str(refused.value)
        assert why in str(refused.value)


@pytest.mark.parametrize("eager", [False, True], ids=["broker", "eager"])
@pytest.mark.parametrize(
    "how",
    [
        lambda app, task: task.s("a").set(queue="everybody"),
        lambda app, task: _with(task, queue="everybody").s("a"),
        lambda app, task: _with(task, exchange="everybody").s("a"),
        lambda app, task: _with(app.conf, task_routes={"plain.plain": {"queue": "everybody"}}) and task.s("a"),
    ],
    ids=["signature", "task", "exchange", "route"],
)
def test_a_send_to_a_broadcast_queue_is_refused(url: str, eager: bool, how: Callable[[Any, Any], Any]) -> None:
    app = batches.make(url, eager=eager)
    with pytest.raises(InvalidPolicy, match="broadcast queue"):
        app.orchestrator.send(how(app, app.tasks["plain.plain"]))
    assert app.orchestrator.ledger() == [] or all(row.queue != "everybody" for row in app.orchestrator.ledger())


def _with(changed: Any, **options: Any) -> Any:
    for name, value in options.items():
        setattr(changed, name, value)
    return changed


def test_a_worker_says_what_it_does_not_supervise(worker: WorkerProcess) -> None:
    log = worker.log()
    assert f"plain.collect: not supervised, {STRATEGY}" in log
    assert f"plain.sleeps: not supervised, {ASYNC}" in log
    assert f"plain.yields: not supervised, {GENERATOR}" in log


@pytest.mark.parametrize("task", ["plain.collect", "plain.sleeps", "plain.yields"])
def test_what_arrives_all_the_same_is_dead_and_says_why(url: str, worker: WorkerProcess, task: str) -> None:
    app = knows_nothing_of_them(batches.make(url))
    outcome = app.orchestrator.send(app.signature(task, ("a",))).wait(timeout_s=WAIT_S)
    assert isinstance(outcome, Dead)
    assert outcome.reason == "not supervised"
    assert outcome.error.startswith(f"NotSupervised: {task} cannot be supervised here: it")


@pytest.mark.parametrize("task", ["plain.sleeps", "plain.yields"])
def test_a_plain_send_that_did_not_run_is_no_success(url: str, worker: WorkerProcess, task: str) -> None:
    app = batches.make(url)
    before = {letter.id for letter in app.orchestrator.dead_letters.list(100)}
    app.tasks[task].delay("a")

    def new() -> list[Any]:
        return [letter for letter in app.orchestrator.dead_letters.list(100) if letter.id not in before]

    (letter,) = eventually(new, WAIT_S, worker.log)
    assert (letter.task, letter.error_type) == (task, "HandlerNotRun")


def test_plain_batches_run_as_ever(url: str, worker: WorkerProcess) -> None:
    broker = BareBroker(url)
    broker.send("plain.collect", "a", "b", "c", "d")
    eventually(lambda: broker.ledger("celery").pending == 0, WAIT_S, worker.log)
    ran = broker.redis.lrange("test:batches", 0, -1)
    assert sorted(" ".join(ran).split()) == ["a", "b", "c", "d"]
    broker.close()


@pytest.mark.parametrize("bare", ["", "1"], ids=["orchestrator", "transport alone"])
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_batch_that_kills_its_process_is_bounded_and_its_neighbours_are_not_blamed(pool: str, bare: str) -> None:
    with EmbeddedServer() as server:
        worker = WorkerProcess(APP, server.url, pool=pool, queues="celery", environment={"BARE": bare})
        broker = BareBroker(server.url)
        with worker:
            broker.send("plain.collect", "die", "b", "c", "d")

            def over() -> bool:
                if not worker.is_running:
                    worker.kill()
                    worker.start()
                return broker.ledger("celery").pending == 0

            eventually(over, 90, worker.log)
            (letter,) = broker.letters()
            assert json.loads(letter["letter"])["reason"] == "poison"
            assert json.loads(base64.b64decode(json.loads(letter["m"])["body"]))[0] == ["die"]
            row = broker.ledger("celery")
            assert (row.handled, row.dead, row.lost) == (3, 1, 0)
        broker.close()


@pytest.mark.parametrize(
    ("pool", "how"), [("threads", "fail"), ("prefork", "fail"), ("threads", "stop"), ("solo", "stop")]
)
def test_a_batch_that_fails_is_not_held_for_ever(pool: str, how: str) -> None:
    with EmbeddedServer() as server, WorkerProcess(APP, server.url, pool=pool, environment={"BARE": "1"}) as worker:
        broker = BareBroker(server.url)
        broker.send("plain.collect", how, "b", "c")
        eventually(lambda: broker.ledger("celery").pending == 0, WAIT_S, worker.log)
        assert (broker.ledger("celery").dead, broker.ledger("celery").handled) == (3, 0)
        assert worker.is_running
        broker.close()


def test_a_pool_that_is_not_known_handles_nothing_under_supervision() -> None:
    environment = {"CELERY_CUSTOM_WORKER_POOL": f"{APP}:OddPool"}
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool="custom", queues="celery,asked", environment=environment) as worker,
    ):
        assert "pool: nothing is supervised, the pool tests.apps.batches:OddPool is not known" in worker.log()
        app = batches.make(server.url)
        for send in (
            lambda: app.orchestrator.send("asked", batches.Ask(name="a")),
            lambda: app.orchestrator.send(app.tasks["plain.plain"].s("a")),
        ):
            outcome = send().wait(timeout_s=WAIT_S)
            assert isinstance(outcome, Dead)
            assert outcome.reason == "not supervised"
            assert "OddPool is not known" in outcome.error


def test_a_task_that_a_foreign_tracer_runs_is_not_said_to_be_handled() -> None:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, queues="celery", environment={"FOREIGN_TRACER": "1"}) as worker,
    ):
        app = batches.make(server.url)
        outcome = app.orchestrator.send(app.tasks["plain.plain"].s("a")).wait(timeout_s=WAIT_S)
        assert isinstance(outcome, Dead), worker.log()
        assert outcome.reason == "not supervised"
        assert outcome.error.startswith("NotSupervised: plain.plain did not run as an attempt")


def test_a_known_task_of_the_same_worker_is_handled(url: str, worker: WorkerProcess) -> None:
    app = batches.make(url)
    assert app.orchestrator.send(app.tasks["plain.plain"].s("a")).wait(timeout_s=WAIT_S) == Handled("a", 1)
