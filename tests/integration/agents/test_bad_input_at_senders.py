"""Bad input at the sender, and an unreachable broker: errors name it without its password."""

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator import Orchestrator
from orchestrator.core.errors import BrokerUnavailable, UnknownAgent, UnknownMessage
from tests.apps import agents_app
from tests.support.agents_cluster import unhosted
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

PASSWORD = "hunter2"
NOWHERE = f"redis://:{PASSWORD}@127.0.0.1:1/0"


def test_the_sender_is_told_at_once() -> None:
    with unhosted() as cluster:
        orchestrator = cluster.orchestrator
        with pytest.raises(UnknownAgent, match="unknown agent 'nobody'; known agents: worker"):
            orchestrator.send("nobody", agents_app.Add(a=1, b=2))
        with pytest.raises(UnknownMessage, match="'worker' does not handle 'Unhosted'; it handles: Add,"):
            orchestrator.send("worker", agents_app.Unhosted())
        with pytest.raises(ValidationError, match="greater than 0"):
            orchestrator.send("worker", agents_app.Pay(order_id="o", cents=0))
        assert sum(row.accepted for row in orchestrator.ledger()) == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda o: o.send("worker", agents_app.Add(a=1, b=2)),
        lambda o: o.send("nobody", agents_app.Add(a=1, b=2)),
        lambda o: o.send(o.app.tasks["plain.add"].s(1, 2)),
        lambda o: o.ledger(),
        lambda o: o.dead_letters.count(),
        lambda o: o.dead_letters.list(),
        lambda o: o.dead_letters.purge(all=True),
    ],
)
def test_a_broker_that_does_not_answer_is_named_without_its_password(ask: Any) -> None:
    orchestrator: Orchestrator = agents_app.make(NOWHERE)
    orchestrator.app.conf.result_backend = None
    orchestrator.app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_max": 0}
    with pytest.raises(BrokerUnavailable, match=r"broker redis://:.*@127.0.0.1:1/0 is not available") as refused:
        ask(orchestrator)
    assert PASSWORD not in str(refused.value)
    orchestrator.app.close()


def test_a_worker_whose_broker_does_not_answer_says_so_without_the_password() -> None:
    worker = WorkerProcess("tests.apps.agents_app", NOWHERE)
    with pytest.MonkeyPatch.context() as patch:
        # There is no Redis to look for leases in.
        patch.setattr(worker, "_leases", list)
        worker.start(wait=False)
        try:
            eventually(lambda: "Cannot connect to redis://:" in worker.log(), 20, worker.log)
            assert worker.is_running
            assert PASSWORD not in worker.log()
        finally:
            worker.close()
