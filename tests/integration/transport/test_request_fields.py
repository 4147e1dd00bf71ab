"""What a plain Celery task sees of its message: what its sender wrote, and nothing that this library needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import celery
import pytest
from celery import chain, chord, group
from redis import Redis

from orchestrator.deadletters.log import DeadLetters
from orchestrator.deadletters.redis_store import RedisDeadLetterStore
from orchestrator.embedded import EmbeddedServer
from tests.apps import settling_app
from tests.support.bare_broker import BareBroker
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

WAIT_S = 20

#: Names that this library once used, and that users may use.
MINE = {"mine": 1, "fence": "f", "incarnation": "i", "eta_waited": "e"}


class Place:
    def __init__(self, url: str, worker: WorkerProcess, bare: bool) -> None:
        self.worker, self.bare = worker, bare
        self.broker = BareBroker(url)
        self.redis = Redis.from_url(url, decode_responses=True)
        self.app = settling_app.make(url, bare=True)
        self.app.conf.result_backend = url

    def seen(self, name: str, times: int = 1) -> list[dict[str, Any]]:
        key = f"test:seen:{name}"
        eventually(lambda: self.redis.llen(key) >= times, WAIT_S, self.worker.log)
        return [json.loads(str(row)) for row in self.redis.lrange(key, 0, -1)]

    def close(self) -> None:
        self.broker.close()
        self.redis.close()
        self.app.close()


@pytest.fixture(
    scope="module",
    params=[(pool, bare) for pool in ("prefork", "solo") for bare in ("", "1")],
    ids=lambda param: f"{param[0]}-{'transport' if param[1] else 'orchestrator'}",
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    pool, bare = request.param
    with (
        EmbeddedServer() as server,
        WorkerProcess(
            "tests.apps.settling_app", server.url, pool=pool, queues="celery", environment={"BARE": bare}
        ) as worker,
    ):
        place = Place(server.url, worker, bool(bare))
        yield place
        place.close()


def test_headers_are_the_senders(place: Place) -> None:
    seen = place.app.tasks["plain.seen"]
    seen.apply_async(("none",))
    assert place.seen("none") == [{"headers": None, "eta": None, "retries": 0}]
    seen.apply_async(("mine",), headers=MINE)
    assert place.seen("mine") == [{"headers": MINE, "eta": None, "retries": 0}]


def test_a_retry_of_celerys_own_takes_along_what_the_sender_wrote(place: Place) -> None:
    place.app.tasks["plain.seen"].apply_async(("retried", 2), headers=MINE, countdown=0.05)
    rows = place.seen("retried", 3)
    assert [(row["headers"], row["retries"]) for row in rows] == [(MINE, n) for n in range(3)]
    etas = [datetime.fromisoformat(row["eta"]) for row in rows]
    assert etas == sorted(set(etas))


def test_headers_that_are_passed_on_are_the_senders(place: Place) -> None:
    place.app.tasks["plain.passes_on"].apply_async(("passed",), headers=MINE, countdown=0.05)
    assert place.seen("passed") == [{"headers": MINE, "eta": None, "retries": 0}]


def test_a_task_knows_when_it_was_due(place: Place) -> None:
    seen = place.app.tasks["plain.seen"]
    due = datetime.now(UTC) + timedelta(seconds=0.2)
    seen.apply_async(("due",), eta=due)
    (row,) = place.seen("due")
    assert datetime.fromisoformat(row["eta"]) == due
    assert datetime.now(UTC) >= due


NOT_BEFORE_5_7 = pytest.mark.skipif(celery.__version__ < "5.7", reason="Celery does not put off the header of a chord")


@pytest.mark.parametrize("canvas", ["group", pytest.param("chord", marks=NOT_BEFORE_5_7), "chain"])
def test_a_canvas_with_a_countdown_tells_its_tasks(place: Place, canvas: str) -> None:
    seen, name = place.app.tasks["plain.seen"], f"canvas {canvas}"
    made = {
        "group": group([seen.si(name), seen.si(name)], app=place.app),
        "chord": chord([seen.si(name), seen.si(name)], seen.si(f"body {canvas}"), app=place.app),
        "chain": chain(seen.si(name), seen.si(name), app=place.app),
    }[canvas]
    before = datetime.now(UTC)
    made.apply_async(countdown=0.2)
    first = place.seen(name, 1 if canvas == "chain" else 2)
    # Of a chain, only the first task has the countdown.
    assert all(datetime.fromisoformat(row["eta"]) > before for row in first[: 1 if canvas == "chain" else 2])


def test_a_letter_that_is_sent_again_shows_the_senders_headers(place: Place) -> None:
    if place.bare:
        pytest.skip("with the transport alone, a failure is Celery's to acknowledge")
    delivery = place.app.tasks["plain.seen"].apply_async(("replayed", "no number"), headers=MINE).id
    log = DeadLetters(RedisDeadLetterStore(place.broker.store))
    (letter,) = eventually(
        lambda: [letter for letter in log.list(100) if letter.delivery_id == delivery], WAIT_S, place.worker.log
    )
    log.retry(letter.id)
    rows = place.seen("replayed", 2)
    assert [row["headers"] for row in rows] == [MINE, MINE]
