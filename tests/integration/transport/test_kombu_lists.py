"""What kombu's own Redis transport has left in its lists is named by the worker that does not read it."""

from __future__ import annotations

import redis

from tests.support.worker_process import WorkerProcess


def test_a_worker_warns_of_messages_in_lists_of_its_queues(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.lpush("billing", "a", "b")
    client.lpush("billing\x06\x163", "c")
    client.lpush("another", "d")
    with WorkerProcess("tests.apps.shop", redis_url, queues="billing,empty") as worker:
        assert "queue billing: 3 messages in the Redis lists of kombu's own transport" in worker.log()
        assert "queue another" not in worker.log()
        assert "queue empty" not in worker.log()
