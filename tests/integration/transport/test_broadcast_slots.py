"""Broadcast queues: a message that ends, however it ends, no longer counts against the prefetch limit."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.policies.policy import OnError, Retry
from tests.apps import ends_app
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

#: More than a worker of one process prefetches.
COUNT = 7


class Everybody:
    """A worker that has subscribed to the Broadcast queue, and an app that sends to it."""

    def __init__(self, url: str, pool: str, *, bare: bool = False) -> None:
        self.app = ends_app.make(url, bare=True)
        self._client: Any = Redis.from_url(url, decode_responses=True)
        environment = {"ENDS_BARE": "1"} if bare else {}
        self.worker = WorkerProcess("tests.apps.ends_app", url, pool=pool, environment=environment)

    def ran(self) -> dict[str, int]:
        return {name: int(count) for name, count in self._client.hgetall("test:runs").items()}

    def send(self, task: str, *args: Any, queue: str = "everybody", **options: Any) -> None:
        declared = [self.app.amqp.queues[queue]]
        self.app.send_task(task, args=args, queue=queue, declare=declared, ignore_result=True, **options)

    def has_run(self, name: str, queue: str = "celery") -> None:
        self.send("note", name, queue=queue)
        eventually(lambda: name in self.ran(), timeout_s=30, describe=self.worker.log)

    def _subscribed(self) -> bool:
        self.send("note", "subscribed")
        return "subscribed" in self.ran()

    def __enter__(self) -> Everybody:
        self.worker.__enter__()
        try:
            # Whoever subscribes has missed what was before; so it is sent again.
            eventually(self._subscribed, describe=self.worker.log)
        except BaseException:
            self.worker.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.worker.__exit__(*error)
        self.app.close()
        self._client.close()


_ENDS: list[tuple[str, dict[str, Any]]] = [
    ("fails", {}),
    ("refuses", {}),
    ("refuses", {"requeue": True}),
    ("again", {}),
    ("note", {}),
]


@pytest.mark.parametrize(
    ("pool", "bare"),
    [("solo", False), ("threads", False), ("gevent", False), ("prefork", False), ("threads", True), ("prefork", True)],
)
def test_more_broadcasts_may_fail_than_the_prefetch_limit(redis_url: str, pool: str, bare: bool) -> None:
    with Everybody(redis_url, pool, bare=bare) as everybody:
        names = set()
        for task, kwargs in _ENDS:
            for n in range(COUNT):
                names.add(f"{task}{n}")
                everybody.send(task, f"{task}{n}", kwargs=kwargs)
        everybody.has_run("afterwards")
        everybody.has_run("another", "everybody")
        eventually(lambda: names <= set(everybody.ran()), describe=everybody.worker.log)


def test_broadcasts_that_never_run_free_their_slots_too(redis_url: str) -> None:
    with Everybody(redis_url, "solo") as everybody:
        for n in range(COUNT):
            everybody.send("note", f"late{n}", expires=-1)
            everybody.send("note", f"bad{n}", headers={"orc": "rubbish"})
            everybody.send("no.such.task")
        everybody.has_run("afterwards")
        assert set(everybody.ran()) == {"subscribed", "afterwards"}


def test_supervised_copies_free_their_slots_whatever_becomes_of_them(redis_url: str) -> None:
    with Everybody(redis_url, "threads") as everybody:
        names = set()
        for on_error in ("dead_letter", "ignore", "log"):
            for track, retries in ((True, 0), (True, 3), (False, 0), (False, 3)):
                header = Supervision(Retry(max_retries=retries), OnError(on_error), track=track).to_wire()
                for n in range(COUNT):
                    name = f"{on_error}{track}{retries}{n}"
                    names |= {name, f"note{name}"}
                    everybody.send("fails", name, headers={"orc": header})
                    everybody.send("note", f"note{name}", headers={"orc": header})
        everybody.has_run("afterwards")
        eventually(lambda: names <= set(everybody.ran()), describe=everybody.worker.log)
