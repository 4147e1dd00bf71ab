"""Workers of agents that limit what runs at a time are woken by whatever puts a message into their mailbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orchestrator import Majority, Orchestrator, Send, Workflow
from orchestrator.embedded import EmbeddedServer
from tests.apps import sleepers_app
from tests.apps.sleepers_app import NOTED, SLEEP_S, Add, Open, Plan, Undo
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

#: Well below what a worker sleeps that nobody wakes.
SOON_S = SLEEP_S / 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess("tests.apps.sleepers_app", server.url, name="ledgers", queues="ledgers"),
        WorkerProcess("tests.apps.sleepers_app", server.url, name="books", queues="books") as worker,
    ):
        made = Cluster(server.url, worker, sleepers_app.make(server.url))
        eventually(lambda: all(made.orchestrator.registry.hosted(name, name) for name in ("ledgers", "books")))
        yield made
        made.close()


def steps(orchestrator: Orchestrator) -> None:
    flow = Workflow("three")
    first = flow.step("first", Add(number=1), to="ledgers")
    second = flow.step("second", Add(number=2), to="ledgers", after=first)
    flow.step("third", Add(number=3), to="ledgers", after=second)
    orchestrator.workflows.start(flow)


def reply(orchestrator: Orchestrator) -> None:
    orchestrator.send("books", Open(number=1))


def fallback(orchestrator: Orchestrator) -> None:
    orchestrator.call("ledgers", Add(number=-1), timeout_s=SOON_S, fallback=[Send(durable=True, on_error="ignore")])


def compensation(orchestrator: Orchestrator) -> None:
    orchestrator.broadcast(["ledgers", "books"], Add(number=1), compensate=Undo(), on_error="ignore")


def decision(orchestrator: Orchestrator) -> None:
    orchestrator.propose(Plan(), ["ledgers"], Majority())


def items(orchestrator: Orchestrator) -> None:
    orchestrator.distribute([Add(number=1), Add(number=2)], to=["ledgers"])


@pytest.mark.parametrize(
    ("put", "noted"),
    [
        (steps, ["added 1", "added 2", "added 3"]),
        (reply, ["added 1", "reply 2"]),
        (fallback, ["added -1", "added -1"]),
        (compensation, ["added 1", "undone"]),
        (decision, ["decided"]),
        (items, ["added 1", "added 2"]),
    ],
)
def test_what_a_script_puts_into_a_mailbox_is_begun_at_once(
    cluster: Cluster, put: Callable[[Orchestrator], None], noted: list[str]
) -> None:
    """Regression: but for what was sent, its worker looked for it after 200 ms."""
    cluster.redis.delete(NOTED)
    put(cluster.orchestrator)
    eventually(lambda: cluster.redis.llen(NOTED) >= len(noted), SOON_S, cluster.log)
    assert [what.decode() for what in cluster.redis.lrange(NOTED, 0, -1)] == noted
    cluster.idle()
