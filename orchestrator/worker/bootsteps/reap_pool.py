"""A bootstep of the consumer that has a prefork worker notice the death of a pool process within 0.25 s.

Celery sees the process' pipe close and then asks the kernel for its exit code, often too early: a dying process closes
its files before it can be waited for. Celery then asks again only after up to 5 s, in which nothing is done about the
message that the process ran.

And Celery ends a worker if one of its pool processes has died before the event loop runs. Any one that is alive
is reason enough to go on: the pool replaces the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps

from orchestrator.celery_types import Consumer, EventLoop

_INTERVAL_S = 0.25


class ReapPool(bootsteps.StartStopStep):
    """Has the pool look for dead processes more often than Celery does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def register_with_event_loop(self, consumer: Consumer, hub: EventLoop) -> None:
        """Called on every (re)connection, which removes the timers of the last one."""
        pool = consumer.pool
        hub.call_repeatedly(_INTERVAL_S, pool.maintain_pool)
        did_start_ok: Callable[[], bool] = pool.did_start_ok
        # Celery asks once, right after this.
        pool.did_start_ok = lambda: _has_living_process(pool) or did_start_ok()


def _has_living_process(pool: Any) -> bool:
    processes = getattr(pool._pool, "_pool", ())
    return any(process._popen is not None and process._popen.poll() is None for process in processes)
