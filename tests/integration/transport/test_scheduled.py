"""``inspect scheduled`` on a worker of the bare transport: told from Redis, whatever lies there."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.transport.celery import scheduled
from tests.support.bare_broker import BareBroker, worker
from tests.support.eventually import eventually

FAR_MS = 4_000_000_000_000


def told(broker: BareBroker) -> list[dict[str, Any]]:
    answers = broker.app.control.inspect(timeout=20, limit=1).scheduled()
    assert answers is not None
    (answer,) = answers.values()
    assert isinstance(answer, list), answer
    return answer


def test_the_next_to_be_due_are_told_first_and_not_all_of_them(broker: BareBroker) -> None:
    k = broker.store.keys
    with worker(broker) as w1:
        eventually(lambda: broker.app.control.ping(timeout=1), timeout_s=20, describe=w1.log)
        broker.send("note", "second", countdown=2000)
        broker.send("note", "first", countdown=1000)
        broker.send("nobody_has_it", "third", countdown=3000)
        assert [one["request"]["args"] for one in told(broker)] == [["first"], ["second"], ["third"]]

        # What was retried has no eta; Redis knows when it is due.
        (raw,) = [m for m in broker.redis.hvals(k.delayed_bodies("celery")) if '"third"' in m or "nobody" in m]
        for number in range(scheduled.MOST):
            broker.redis.hset(k.delayed_bodies("celery"), f"m{number}", raw)
            broker.redis.zadd(k.delayed("celery"), {f"m{number}": FAR_MS + number})
        assert len(told(broker)) == scheduled.MOST


def test_what_is_no_task_is_passed_over(broker: BareBroker) -> None:
    k = broker.store.keys
    with worker(broker) as w1:
        eventually(lambda: broker.app.control.ping(timeout=1), timeout_s=20, describe=w1.log)
        broker.send("note", "fine", countdown=1000)
        for number, rubbish in enumerate(("", "{", "[]", '{"properties": {}}', '{"body": "!", "properties": {}}')):
            broker.redis.hset(k.delayed_bodies("celery"), f"m{number}", rubbish)
            broker.redis.zadd(k.delayed("celery"), {f"m{number}": FAR_MS + number})
        broker.redis.zadd(k.delayed("celery"), {"no body": FAR_MS})
        assert [one["request"]["args"] for one in told(broker)] == [["fine"]]


def test_no_more_bytes_are_read_than_an_answer_may_have(broker: BareBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: of each queue a hundred bodies were read, however large, before their sizes were looked at."""
    monkeypatch.setattr(scheduled, "_MOST_BYTES", 200_000)
    k = broker.store.keys
    for number in range(150):
        # The first alone is more than all may be.
        broker.redis.hset(k.delayed_bodies("q"), f"m{number:03}", "x" * (60_000 if number else 500_000))
        broker.redis.zadd(k.delayed("q"), {f"m{number:03}": FAR_MS + number})
    broker.redis.zadd(k.delayed("q"), {"no body": FAR_MS})
    before = broker.redis.info("stats")["total_net_output_bytes"]
    assert [due_ms - FAR_MS for due_ms, _, _ in scheduled._waiting(broker.store, ["q"])] == [1, 2, 3]
    assert broker.redis.info("stats")["total_net_output_bytes"] - before < 250_000
