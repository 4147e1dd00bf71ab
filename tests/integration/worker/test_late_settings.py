"""An app that was configured after its Orchestrator was made: real workers serve it, and lose nothing of either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from orchestrator import Dead, Handled, Retry
from orchestrator.embedded import EmbeddedServer
from tests.apps import late_settings
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.late_settings",
            server.url,
            pool="prefork",
            prefix="late:",
            environment={"LATE_BROKER_URL": server.url},
        ) as worker,
    ):
        late_settings.app.conf.broker_url = server.url
        yield worker
        late_settings.app.close()


def test_agents_and_tasks_are_supervised_in_the_queue_that_was_named_afterwards(worker: WorkerProcess) -> None:
    """Regression: no transport, and the worker read `celery` while the sends went to the other queue."""
    charged = late_settings.orchestrator.send(late_settings.Billing, late_settings.Charge(cents=5))
    added = late_settings.orchestrator.send(late_settings.add.s(1, 2))
    late_settings.add.delay(3, 4)
    assert charged.wait(timeout_s=20) == Handled(5, attempts=1), worker.log()
    assert added.wait(timeout_s=20) == Handled(3, attempts=1), worker.log()

    def handled() -> bool:
        rows = {row.queue: row for row in late_settings.orchestrator.ledger()}
        return rows["late"].handled == 2 and rows["billing"].handled == 1 and "celery" not in rows

    eventually(handled, timeout_s=20, describe=worker.log)
    assert "WARNING/MainProcess] broker" not in worker.log()
    with Redis.from_url(late_settings.app.conf.broker_url) as client:
        strange = [key for key in client.scan_iter() if not key.startswith((b"late:", b"_kombu"))]
    assert not strange


def test_a_task_that_shall_not_be_given_back_is_dead_when_its_process_is(worker: WorkerProcess) -> None:
    """Regression: it was counted as handled, and its outcome never came."""
    delivery = late_settings.orchestrator.send(late_settings.die_and_stay_dead.s(), retry=Retry(max_retries=3))
    outcome = delivery.wait(timeout_s=20)
    assert isinstance(outcome, Dead), worker.log()
    assert "WorkerLostError" in str(outcome.error)
