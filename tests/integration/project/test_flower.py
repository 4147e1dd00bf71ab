"""A real Flower beside a real worker: it shows the agents' workers, their tasks, and how much mail waits."""

import re
from collections.abc import Iterator

import pytest

from orchestrator import Orchestrator
from orchestrator.core.keys import GROUP
from orchestrator.embedded import EmbeddedServer
from tests.apps.shop import Charge, Refund, make
from tests.support.eventually import eventually
from tests.support.flower_process import Flower, running_flower
from tests.support.worker_process import WorkerProcess


@pytest.fixture(scope="module")
def worker(server: EmbeddedServer) -> Iterator[WorkerProcess]:
    with WorkerProcess("tests.apps.shop", server.url, arguments=("-E",)) as worker:
        yield worker


@pytest.fixture(scope="module")
def flower(server: EmbeddedServer, worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    log = tmp_path_factory.mktemp("flower") / "log"
    with running_flower("tests.apps.shop", server.url, log) as flower:
        # From here on it receives events.
        eventually(lambda: "w1@" in flower.get("/workers?json=1")[1], timeout_s=30, describe=log.read_text)
        yield flower


@pytest.fixture(scope="module")
def shop(server: EmbeddedServer) -> Orchestrator:
    return make(server.url)


def test_it_shows_workers_and_what_became_of_their_tasks(flower: Flower, shop: Orchestrator) -> None:
    shop.send("billing", Charge(order_id="o1", cents=5)).wait(timeout_s=20)
    shop.send("billing", Refund(order_id="o2")).wait(timeout_s=20)
    shop.app.send_task("shop.add", (1, 2))
    expected = {("billing.Charge", "SUCCESS"), ("billing.Refund", "FAILURE"), ("shop.add", "SUCCESS")}
    eventually(lambda: expected <= flower.tasks(), timeout_s=20)
    assert flower.get("/tasks")[0] == 200
    (worker,) = flower.json("/workers?json=1")["data"]
    assert worker["status"] is True
    assert worker["task-succeeded"] >= 2


def test_it_shows_a_worker_s_own_page(flower: Flower) -> None:
    name = eventually(lambda: next(iter(flower.json("/api/workers?refresh=1")), ""), timeout_s=20)
    status, page = flower.get(f"/worker/{name}")
    assert status == 200, "a worker whose `inspect stats` fails has no page"
    assert "billing" in page


def test_it_counts_what_waits(flower: Flower, shop: Orchestrator) -> None:
    for number in range(2):
        shop.send("billing", Charge(order_id=str(number), cents=5), countdown_s=1000)
    for number in range(7):
        shop.app.send_task("shop.add", (1, number), queue="nobodys", priority=number)
    # What a worker holds waits no longer.
    stream = next(s for s in shop.runtime.store.streams("nobodys") if shop.runtime.store.client.xlen(s))
    shop.runtime.store.client.xgroup_create(stream, GROUP, "0")
    assert shop.runtime.store.client.xreadgroup(GROUP, "somebody", {stream: ">"}, count=1)

    lengths = flower.lengths()
    assert lengths["billing"] == 2
    # No worker consumes it, and it is shown all the same.
    assert lengths["nobodys"] == 6
    assert lengths["celery"] == 0
    status, page = flower.get("/broker")
    assert status == 200
    row = re.search(r'<tr id="nobodys">.*?</tr>', page, re.DOTALL)
    assert row is not None
    assert re.findall(r"<td[^>]*>(\d+)</td>", row[0]) == ["6"]


def test_it_leaves_no_connections_behind(flower: Flower, shop: Orchestrator) -> None:
    def connections_that_counted() -> set[str]:
        # Flower and the worker have others for their own work, and open them when they like.
        return {client["id"] for client in shop.runtime.store.client.client_list() if client["cmd"] == "xpending"}

    before = connections_that_counted()
    for _ in range(10):
        flower.lengths()
    eventually(lambda: connections_that_counted() <= before)


def test_it_counts_the_lists_of_celerys_own_transport(flower: Flower, shop: Orchestrator) -> None:
    shop.runtime.store.client.rpush("celery", "left over from before the change of transport")
    assert flower.lengths()["celery"] == 1
    shop.runtime.store.client.delete("celery")


def test_it_lives_on_while_redis_is_away(flower: Flower, server: EmbeddedServer) -> None:
    server.stop()
    status, page = flower.get("/broker")
    assert status == 200
    assert '<tr id="nobodys">' not in page
    assert flower.process.poll() is None
