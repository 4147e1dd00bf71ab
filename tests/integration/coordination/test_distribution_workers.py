"""Items, hierarchies and discovered agents on a real worker."""

from __future__ import annotations

from collections import Counter

from orchestrator import Handled, Needs, Refusal
from tests.apps import placement_app
from tests.apps.placement_app import Page
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


def test_a_worker_handles_the_items_and_a_senders_app_needs_no_classes(redis_url: str) -> None:
    with WorkerProcess("tests.apps.placement_app", redis_url, queues="reader-a,reader-b,monitor-manager") as worker:
        orchestrator = placement_app.make(redis_url)
        eventually(lambda: len(orchestrator.discover("ocr")) == 2, 15, worker.log)
        report = orchestrator.distribute([Page(number=number) for number in range(500)], to=Needs("ocr"))
        assert report.counts == {"reader-a": 250, "reader-b": 250}
        outcomes = report.wait(60)
        assert Counter(outcome.result for outcome in outcomes.values() if isinstance(outcome, Handled)) == report.counts
        team = orchestrator.hierarchy("readers", {"reader-a": ["reader-b"]})
        heard = team.broadcast(Page(number=1)).wait(30)
        assert heard == {"reader-a": Handled("reader-a"), "reader-b": Handled("reader-b")}
        worker.kill()
        eventually(lambda: not orchestrator.discover("ocr"), 15)
        assert orchestrator.hierarchy("readers").broadcast(Page(number=1)).refused == {
            "reader-a": Refusal.DOWN,
            "reader-b": Refusal.DOWN,
        }
        orchestrator.app.close()
