"""A Redis, a worker on it, and an app that sends to both; the worker may be missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis

from orchestrator import Orchestrator, Retry
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.sending.ledger import LedgerRow
from orchestrator.transport.redis import commands
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess

#: Nothing listens there: eager mode needs no Redis.
NO_REDIS = "redis://127.0.0.1:1/0"


class Cluster:
    """The Redis at ``url``, the app of ``orchestrator``, and the worker, if there is one."""

    def __init__(self, url: str, worker: WorkerProcess | None, orchestrator: Orchestrator) -> None:
        self.url = url
        self._worker = worker
        self.orchestrator = orchestrator
        # As long as a blocking command of a test waits.
        self.redis: Any = Redis.from_url(url, socket_timeout=60)

    @property
    def has_worker(self) -> bool:
        """Whether messages are handled by a worker's process; else eager mode, or nobody, handles them."""
        return self._worker is not None

    @property
    def worker(self) -> WorkerProcess:
        """The worker, in a test that has one."""
        assert self._worker is not None
        return self._worker

    @property
    def keys(self) -> Any:
        """The names of Redis' keys."""
        return self.orchestrator.runtime.store.keys

    def log(self) -> str:
        """What the worker has printed."""
        return self.worker.log() if self.has_worker else ""

    def row(self, queue: str = "worker") -> LedgerRow:
        """A mailbox' ledger."""
        return next((row for row in self.orchestrator.ledger() if row.queue == queue), LedgerRow(queue))

    def idle(self, timeout_s: float = 15.0) -> list[LedgerRow]:
        """The ledger, once nothing is pending."""

        def nothing_pending() -> list[LedgerRow]:
            rows = self.orchestrator.ledger()
            return rows if all(row.pending == 0 for row in rows) else []

        return eventually(nothing_pending, timeout_s, self.log)

    def put(self, raw: bytes, queue: str = "worker") -> None:
        """Accept an entry that none of our publishers would write."""
        k, store = self.keys, self.orchestrator.runtime.store
        store.run(*commands.publish(k.stream(queue, store.levels[1]), k.ledger(queue), [raw]))

    def letter_after(self, act: Callable[[], Any], timeout_s: float = 10.0) -> DeadLetter:
        """Call ``act``, and return the one dead letter that is made after it."""
        log = self.orchestrator.dead_letters
        before = {letter.id for letter in log.list(1000)}
        act()
        (letter,) = eventually(
            lambda: [letter for letter in log.list(1000) if letter.id not in before], timeout_s, self.log
        )
        return letter

    def close(self) -> None:
        """Close the app's connections and the test's own."""
        self.orchestrator.app.close()
        self.redis.close()


class TaskCluster(Cluster):
    """Sends the plain tasks of an app, and reads what they have noted."""

    def __init__(
        self, url: str, worker: WorkerProcess | None, orchestrator: Orchestrator, retry: Retry, notes: list[str]
    ) -> None:
        super().__init__(url, worker, orchestrator)
        self.tasks = orchestrator.app.tasks
        self._retry = retry
        self._notes = notes

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task by the end of its name; returns the delivery."""
        return self.orchestrator.send(self.tasks[f"plain.{task}"].s(*args), retry=self._retry, **options)

    def outcome(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task, and wait for its outcome."""
        return self.send(task, *args, **options).wait(timeout_s=20)

    def noted(self) -> list[str]:
        """What the tasks have noted, in Redis or, in eager mode, in this process."""
        if not self.has_worker:
            return list(self._notes)
        return [note.decode() for note in self.redis.lrange("test:noted", 0, -1)]

    def forget(self) -> None:
        """Remove what the tasks have noted."""
        self._notes.clear()
        if self.has_worker:
            self.redis.delete("test:noted")
