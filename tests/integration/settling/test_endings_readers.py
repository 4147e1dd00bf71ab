"""Of an app's workers one reads the outcomes that wait for Celery, by pages; each is held while it is delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.embedded import EmbeddedServer
from orchestrator.transport.endings import delivery_thread, end_for_celery
from orchestrator.transport.endings.delivery_thread import EndingsDelivery
from orchestrator.transport.endings.stream import Ending, Endings
from orchestrator.transport.redis.command_connection import CommandConnection
from tests.support.emptied_redis import empty
from tests.support.ends import Ends


@pytest.fixture
def ends(server: EmbeddedServer) -> Iterator[Ends]:
    """On a server on which commands can be counted: threads of earlier tests may still use the shared one."""
    empty(server.url)
    made = Ends(server.url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _without_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests deliver. Once another test has loaded Celery's worker, `wake` starts a thread that does, too."""
    monkeypatch.setattr(delivery_thread, "_worker_app", lambda: None)


def reading(ends: Ends) -> Endings:
    return Endings(CommandConnection(ends.store.pool), ends.store.keys)


def worker(ends: Ends) -> EndingsDelivery:
    return EndingsDelivery(reading(ends), reading(ends))


def purged(ends: Ends, count: int, size: int = 10) -> None:
    for n in range(count):
        ends.redis.xadd(ends.store.keys.endings, {"m": message(f"t{n}", size), "q": "celery", "s": "REVOKED"})


def message(task_id: str, size: int) -> str:
    return f'{{"headers": {{"id": "{task_id}", "task": "note"}}, "body": "{"x" * size}"}}'


def ends_by(monkeypatch: pytest.MonkeyPatch, end: Callable[[Ending], Any]) -> None:
    monkeypatch.setattr(end_for_celery, "end_for_celery", lambda app, ending: end(ending))


def reads(ends: Ends) -> int:
    return int(ends.redis.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"])


def test_only_one_worker_of_an_app_reads(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    purged(ends, 300)
    first, second = worker(ends), worker(ends)
    seen: list[str] = []
    others: list[int] = []

    def end(ending: Ending) -> None:
        if not seen:
            before = reads(ends)
            second.deliver(ends.app)
            others.append(reads(ends) - before)
        seen.append(ending.id)

    ends_by(monkeypatch, end)
    assert first.deliver(ends.app)
    assert others == [0]
    assert len(seen) == 300
    assert not ends.redis.xlen(ends.store.keys.endings)


def test_another_reads_once_the_first_has_left(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = worker(ends), worker(ends)
    first.deliver(ends.app)
    purged(ends, 1)
    seen: list[Ending] = []
    ends_by(monkeypatch, seen.append)
    second.deliver(ends.app)
    assert not seen
    first.close()
    second.deliver(ends.app)
    assert len(seen) == 1


def test_what_was_read_and_is_not_for_this_app_is_not_read_at_each_heartbeat(ends: Ends) -> None:
    for n in range(300):
        ends.redis.xadd(ends.store.keys.endings, {"m": message(f"t{n}", 10).replace("note", "other"), "q": "other"})
    one = worker(ends)
    one.deliver(ends.app)
    before = reads(ends)
    one.deliver(ends.app)
    assert reads(ends) == before + 1


def test_a_page_is_bounded_by_its_bytes(ends: Ends) -> None:
    purged(ends, 8, 600_000)
    endings, after, sizes = reading(ends), "-", []
    while (page := endings.read("app", "me", 10, after, 200)) is not None and page.endings:
        sizes.append(sum(len(ending.message) for ending in page.endings))
        after = page.after
    assert len(sizes) == 4
    assert max(sizes) < 2_000_000


def test_an_outcome_is_taken_when_its_turn_has_come_and_renewed_while_it_lasts(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    purged(ends, 3)
    k = ends.store.keys
    one, other = worker(ends), reading(ends)
    seen: list[str] = []
    taken: list[list[str]] = []
    renewed: list[bool] = []

    def end(ending: Ending) -> None:
        seen.append(ending.id)
        taken.append(ends.redis.zrange(k.endings_taken, 0, -1))
        # It lasts: its time is nearly over when the worker's next heartbeat comes.
        now_ms = ends.redis.time()[0] * 1000
        ends.redis.zadd(k.endings_taken, {ending.id: now_ms})
        one.wake()
        renewed.append(ends.redis.zscore(k.endings_taken, ending.id) > now_ms + 30_000)
        if len(seen) == 1:
            # Another worker, which takes over as reader, may have the next one.
            following = ends.redis.xrange(k.endings, f"({ending.id}", "+", count=1)[0][0]
            assert other.take(following, 60)

    ends_by(monkeypatch, end)
    one.deliver(ends.app)
    assert taken[0] == seen[:1]
    assert renewed == [True, True]
    assert ends.redis.xlen(k.endings) == 1


def test_the_time_of_one_that_was_left_is_not_renewed(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    purged(ends, 1)
    k = ends.store.keys
    one = worker(ends)

    def end(ending: Ending) -> None:
        raise ValueError(ending.id)

    ends_by(monkeypatch, end)
    one.deliver(ends.app)
    ((ending_id, until_ms),) = ends.redis.zrange(k.endings_taken, 0, -1, withscores=True)
    one.wake()
    assert ends.redis.zscore(k.endings_taken, ending_id) == until_ms
