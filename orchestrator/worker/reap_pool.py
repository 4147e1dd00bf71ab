"""A bootstep of the consumer that has a prefork worker notice the death of a pool process within 0.25 s.

Celery sees the process' pipe close and then asks the kernel for its exit code, often too early: a dying process closes
its files before it can be waited for. Celery then asks again only after up to 5 s, in which nothing is done about the
message that the process ran.
"""

from __future__ import annotations

from celery import bootsteps

from orchestrator.celery_types import Consumer, EventLoop

_INTERVAL_S = 0.25


class ReapPool(bootsteps.StartStopStep):
    """Has the pool look for dead processes more often than Celery does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def register_with_event_loop(self, consumer: Consumer, hub: EventLoop) -> None:
        """Called on every (re)connection, which removes the timers of the last one."""
        hub.call_repeatedly(_INTERVAL_S, consumer.pool.maintain_pool)
