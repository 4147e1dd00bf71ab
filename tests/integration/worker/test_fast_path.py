"""A supervised message's short way through a solo or threads worker, and who is heard when it takes the long one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Cancelled, Dead, Handled
from orchestrator.embedded import EmbeddedServer
from tests.apps import listened_app as app
from tests.support.celery_events import await_subscription
from tests.support.cluster import TaskCluster
from tests.support.eventually import eventually
from tests.support.scheduled_messages import fall_due
from tests.support.worker_process import WorkerProcess

WAIT_S = 20


def _place(pool: str, **options: Any) -> Iterator[TaskCluster]:
    concurrency = 2 if pool == "threads" else 1
    with (
        EmbeddedServer() as server,
        WorkerProcess("tests.apps.listened_app", server.url, pool=pool, concurrency=concurrency, **options) as worker,
    ):
        place = TaskCluster(server.url, worker, app.make(server.url), app.NEVER, [])
        yield place
        place.close()


@pytest.fixture(scope="module", params=["solo", "threads"])
def quick(request: pytest.FixtureRequest) -> Iterator[TaskCluster]:
    """Nobody listens."""
    yield from _place(request.param, arguments=("--prefetch-multiplier=4",))


@pytest.fixture(scope="module")
def listened() -> Iterator[TaskCluster]:
    """A receiver of each signal."""
    yield from _place("solo", environment={"LISTENS": "1"})


@pytest.fixture(autouse=True)
def _nothing_noted(request: pytest.FixtureRequest) -> None:
    for name in {"quick", "listened"} & set(request.fixturenames):
        request.getfixturevalue(name).redis.delete("test:noted")


def test_a_task_knows_of_its_message_what_celery_would_tell(quick: TaskCluster, listened: TaskCluster) -> None:
    (short, long) = (place.outcome("request", 7) for place in (quick, listened))
    assert isinstance(short, Handled)
    assert isinstance(long, Handled)
    assert (short.result.pop("kind"), long.result.pop("kind")) == ("FastPathContext", "Context")
    assert short.result == long.result


def test_a_result_that_no_backend_would_store_is_none_to_ignore(quick: TaskCluster, listened: TaskCluster) -> None:
    (short, long) = (place.outcome("unstored", 7) for place in (quick, listened))
    assert (short.result.pop("kind"), long.result.pop("kind")) == ("FastPathContext", "Context")
    assert short.result == long.result


def test_signals_are_sent_to_who_listens(listened: TaskCluster) -> None:
    assert listened.outcome("request", 7).result["kind"] == "Context"
    eventually(lambda: set(app.SIGNALS) <= set(listened.noted()), describe=listened.worker.log)


def test_hooks_of_a_task_class_are_called(quick: TaskCluster) -> None:
    assert isinstance(quick.outcome("hooked", 7), Handled)
    assert quick.noted() == ["before_start", "ran 7", "on_success", "after_return SUCCESS"]


def test_a_failure_is_celerys_and_happens_once(quick: TaskCluster) -> None:
    outcome = quick.outcome("fail", 7)
    assert isinstance(outcome, Dead)
    assert outcome.error == "ValueError: number 7"
    assert quick.noted() == ["ran 7", "on_failure number 7"]
    (letter,) = [le for le in quick.orchestrator.dead_letters.list(100) if le.error_message == "number 7"][-1:]
    assert "in fail" in letter.failures[-1].traceback
    assert "Task plain.fail" in quick.worker.log()


# A solo worker answers when it has nothing to run.
@pytest.mark.parametrize("quick", ["threads"], indirect=True)
def test_what_runs_and_what_waits_is_shown(quick: TaskCluster) -> None:
    deliveries = [quick.send("hold", number) for number in range(3)]
    # With a limit, it waits for the answer, and no longer.
    inspect = quick.orchestrator.app.control.inspect(timeout=WAIT_S, limit=1)

    def ids(answer: Any) -> set[str]:
        return {task["id"] for tasks in (answer or {}).values() for task in tasks}

    eventually(lambda: len(ids(inspect.active())) == 2, 15, quick.worker.log)
    sent = {delivery.id for delivery in deliveries}
    eventually(lambda: ids(inspect.active()) | ids(inspect.reserved()) == sent, 15, quick.worker.log)
    for number in range(3):
        quick.redis.rpush(f"test:go:{number}", "go")
    assert all(isinstance(delivery.wait(timeout_s=WAIT_S), Handled) for delivery in deliveries)
    eventually(lambda: not ids(inspect.active()), 15, quick.worker.log)


def test_a_revoked_message_is_not_run(quick: TaskCluster) -> None:
    control = quick.orchestrator.app.control
    eventually(lambda: control.ping(timeout=1, limit=1), WAIT_S, quick.worker.log)
    delivery = quick.send("fail", 8, countdown_s=60)
    assert control.revoke(delivery.id, reply=True, timeout=WAIT_S, limit=1), quick.worker.log()
    fall_due(quick.redis, quick.keys, "celery")
    assert isinstance(delivery.wait(timeout_s=WAIT_S), Cancelled)
    assert quick.noted() == []


def test_a_rate_limit_set_meanwhile_is_kept(quick: TaskCluster) -> None:
    control = quick.orchestrator.app.control
    assert quick.outcome("request", 7).result["kind"] == "FastPathContext"
    try:
        control.rate_limit("plain.request", "1000/s", reply=True, timeout=10, limit=1)
        assert quick.outcome("request", 7).result["kind"] == "Context"
    finally:
        control.rate_limit("plain.request", 0, reply=True, timeout=10, limit=1)
    assert quick.outcome("request", 7).result["kind"] == "FastPathContext"


def test_events_are_sent_once_they_are_on(quick: TaskCluster) -> None:
    celery = quick.orchestrator.app
    seen: list[tuple[str, str]] = []
    ready = threading.Event()
    with celery.connection_for_read() as connection:
        receiver = celery.events.Receiver(
            connection, handlers={"*": lambda event: seen.append((event["type"], event.get("uuid", "")))}
        )
        stop = threading.Event()

        def listen() -> None:
            consumer = receiver.itercapture(limit=None, timeout=None, wakeup=False)
            next(consumer)
            ready.set()
            for _ in consumer:
                if stop.is_set():
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        assert ready.wait(WAIT_S)
        await_subscription(celery, lambda: {kind for kind, _ in tuple(seen)})
        celery.control.enable_events(reply=True, timeout=10, limit=1)
        try:
            delivery = quick.send("request", 7)
            assert delivery.wait(timeout_s=WAIT_S).result["kind"] == "Context"
            wanted = {"task-received", "task-started", "task-succeeded"}
            eventually(lambda: wanted <= {kind for kind, id_ in tuple(seen) if id_ == delivery.id}, WAIT_S)
        finally:
            stop.set()
            celery.control.disable_events(reply=True, timeout=10, limit=1)
            thread.join(WAIT_S)
    assert quick.outcome("request", 7).result["kind"] == "FastPathContext"
