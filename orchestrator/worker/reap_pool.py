"""Has a prefork worker notice at once that one of its pool processes has died.

Celery is told by a pipe that closes with the process, and asks the kernel for its exit code a moment too early as
often as not: a dying process closes its files before it can be waited for. Then it does not ask again for up to
five seconds, in which the message that the process ran is with nobody.
"""

from __future__ import annotations

from celery import bootsteps

from orchestrator.celery_types import Consumer, EventLoop

_LOOK_EVERY_S = 0.25


class ReapPool(bootsteps.StartStopStep):
    """A step of the consumer that looks after the pool more often than Celery does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def register_with_event_loop(self, consumer: Consumer, hub: EventLoop) -> None:
        """Called on every (re)connection, when the timers of the last one are gone."""
        hub.call_repeatedly(_LOOK_EVERY_S, consumer.pool.maintain_pool)
