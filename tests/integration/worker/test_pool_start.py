"""A pool process that dies while its worker starts."""

from __future__ import annotations

from celery import Celery

from orchestrator import Handled, Orchestrator
from tests.support.worker_process import WorkerProcess


def test_the_worker_goes_on_with_the_processes_that_live(redis_url: str) -> None:
    sender = Orchestrator(Celery("dying", broker=redis_url, set_as_current=False))
    echo = sender.app.signature("echo", ["on"])
    with WorkerProcess("tests.apps.dying_child", redis_url, pool="prefork", concurrency=2) as worker:
        delivery = sender.send(echo)
        assert delivery.wait(timeout_s=20) == Handled("on"), worker.log()
        assert "Unrecoverable error" not in worker.log()
    sender.app.close()
