"""A pool process that is lost after its task's result was stored takes no outcome with it."""

from __future__ import annotations

from orchestrator import Handled
from tests.apps import lost_later
from tests.support.worker_process import WorkerProcess


def test_what_was_stored_before_its_process_was_lost_is_handled(redis_url: str) -> None:
    orchestrator = lost_later.make(redis_url)
    with WorkerProcess(
        "tests.apps.lost_later", redis_url, pool="prefork", queues="celery", environment={"KILLS": "1"}
    ) as worker:
        delivery = orchestrator.send(orchestrator.app.tasks["lost_later.double"].s(21))
        outcome = delivery.wait(timeout_s=30)
        assert isinstance(outcome, Handled), worker.log()
        assert outcome.result == 42
        (row,) = (row for row in orchestrator.ledger() if row.queue == "celery")
        assert (row.accepted, row.handled, row.lost) == (1, 1, 0)
    orchestrator.app.close()


def test_a_stored_result_that_celery_decodes_is_json_data_in_the_outcome(redis_url: str) -> None:
    orchestrator = lost_later.make(redis_url)
    with WorkerProcess(
        "tests.apps.lost_later", redis_url, pool="prefork", queues="celery", environment={"KILLS": "1"}
    ) as worker:
        outcome = orchestrator.send(orchestrator.app.tasks["lost_later.day"].s()).wait(timeout_s=30)
        assert outcome == Handled("2026-11-28T00:00:00Z"), worker.log()
    orchestrator.app.close()
