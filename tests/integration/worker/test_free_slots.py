"""A pool that settles beside the event loop has its next message as soon as a slot is free."""

from __future__ import annotations

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.apps import shop
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

MANY = 1000


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo", "gevent"])
def test_short_messages_of_an_agent_do_not_wait_for_a_timer(pool: str) -> None:
    """Regression: in a pool of threads, four messages ran in each 0.2 s, because no free slot woke the event loop."""
    with EmbeddedServer() as server, WorkerProcess("tests.apps.shop", server.url, pool=pool, concurrency=4) as worker:
        made = shop.make(server.url)
        made.send_many("billing", [shop.Charge(order_id=str(number), cents=1) for number in range(MANY)])
        handled = lambda: sum(row.handled for row in made.ledger() if row.queue == "billing")  # noqa: E731
        # Four in each 0.2 s would take 50 s. It is one or two of processor time, which may be much on a busy machine.
        eventually(lambda: handled() == MANY, timeout_s=40, describe=worker.log)
