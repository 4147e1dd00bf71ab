"""What a plain Celery task sees of its message: what its sender wrote, and nothing that this library needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import celery
import pytest
from celery import chain, chord, group

from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.redis.store import RedisDeadLetterStore
from tests.support.eventually import eventually
from tests.support.settling_cluster import WITHOUT_ORCHESTRATOR, SettlingCluster, settling

WAIT_S = 20

#: Names that this library once used, and that users may use.
MINE = {"mine": 1, "fence": "f", "incarnation": "i", "eta_waited": "e"}


def seen_by(cluster: SettlingCluster, name: str, times: int = 1) -> list[dict[str, Any]]:
    """What the task has seen of its requests, once it ran so often."""
    key = f"test:seen:{name}"
    eventually(lambda: cluster.redis.llen(key) >= times, WAIT_S, cluster.worker.log)
    return [json.loads(str(row)) for row in cluster.redis.lrange(key, 0, -1)]


@pytest.fixture(
    scope="module",
    params=[(pool, bare) for pool in ("prefork", "solo") for bare in WITHOUT_ORCHESTRATOR],
    ids=lambda param: f"{param[0]}-{'transport' if param[1] else 'orchestrator'}",
)
def cluster(request: pytest.FixtureRequest) -> Iterator[SettlingCluster]:
    pool, bare = request.param
    with settling(pool, bare) as cluster:
        cluster.app.conf.result_backend = cluster.broker.url
        yield cluster


def test_headers_are_the_senders(cluster: SettlingCluster) -> None:
    seen = cluster.app.tasks["plain.seen"]
    seen.apply_async(("none",))
    assert seen_by(cluster, "none") == [{"headers": None, "eta": None, "retries": 0}]
    seen.apply_async(("mine",), headers=MINE)
    assert seen_by(cluster, "mine") == [{"headers": MINE, "eta": None, "retries": 0}]


def test_a_retry_of_celerys_own_takes_along_what_the_sender_wrote(cluster: SettlingCluster) -> None:
    cluster.app.tasks["plain.seen"].apply_async(("retried", 2), headers=MINE, countdown=0.05)
    rows = seen_by(cluster, "retried", 3)
    assert [(row["headers"], row["retries"]) for row in rows] == [(MINE, n) for n in range(3)]
    etas = [datetime.fromisoformat(row["eta"]) for row in rows]
    assert etas == sorted(set(etas))


def test_headers_that_are_passed_on_are_the_senders(cluster: SettlingCluster) -> None:
    cluster.app.tasks["plain.passes_on"].apply_async(("passed",), headers=MINE, countdown=0.05)
    assert seen_by(cluster, "passed") == [{"headers": MINE, "eta": None, "retries": 0}]


def test_a_task_knows_when_it_was_due(cluster: SettlingCluster) -> None:
    seen = cluster.app.tasks["plain.seen"]
    due = datetime.now(UTC) + timedelta(seconds=0.2)
    seen.apply_async(("due",), eta=due)
    (row,) = seen_by(cluster, "due")
    assert datetime.fromisoformat(row["eta"]) == due
    assert datetime.now(UTC) >= due


NOT_BEFORE_5_7 = pytest.mark.skipif(celery.__version__ < "5.7", reason="Celery does not put off the header of a chord")


@pytest.mark.parametrize("canvas", ["group", pytest.param("chord", marks=NOT_BEFORE_5_7), "chain"])
def test_a_canvas_with_a_countdown_tells_its_tasks(cluster: SettlingCluster, canvas: str) -> None:
    seen, name = cluster.app.tasks["plain.seen"], f"canvas {canvas}"
    made = {
        "group": group([seen.si(name), seen.si(name)], app=cluster.app),
        "chord": chord([seen.si(name), seen.si(name)], seen.si(f"body {canvas}"), app=cluster.app),
        "chain": chain(seen.si(name), seen.si(name), app=cluster.app),
    }[canvas]
    before = datetime.now(UTC)
    made.apply_async(countdown=0.2)
    first = seen_by(cluster, name, 1 if canvas == "chain" else 2)
    # Of a chain, only the first task has the countdown.
    assert all(datetime.fromisoformat(row["eta"]) > before for row in first[: 1 if canvas == "chain" else 2])


def test_a_replayed_letter_shows_the_senders_headers(cluster: SettlingCluster) -> None:
    if cluster.bare:
        pytest.skip("with the transport alone, a failure is Celery's to acknowledge")
    delivery = cluster.app.tasks["plain.seen"].apply_async(("replayed", "no number"), headers=MINE).id
    log = DeadLetters(RedisDeadLetterStore(cluster.broker.store))
    (letter,) = eventually(
        lambda: [letter for letter in log.list(100) if letter.delivery_id == delivery], WAIT_S, cluster.worker.log
    )
    log.replay(letter.id)
    rows = seen_by(cluster, "replayed", 2)
    assert [row["headers"] for row in rows] == [MINE, MINE]
