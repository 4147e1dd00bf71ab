"""The monitor manager's sweep, as a task that beat schedules, and the chores that come with it.

Any worker may serve it; one that does nothing else does it best.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery import Celery

from orchestrator.monitors import upkeep
from orchestrator.monitors.chores import Chore, Chores
from orchestrator.monitors.leak_check import LeakCheck
from orchestrator.sending.mailbox import mailbox

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

#: The manager's mailbox. It holds one message at most: a sweep that waits makes the next one superfluous.
QUEUE = "monitor-manager"
TASK = "orchestrator.sweep"
LEAKS_TASK = "orchestrator.monitor-leaks"


class _Quiet(logging.Filter):
    """Keeps Celery from telling every second that a sweep was received and succeeded."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        data = getattr(record, "data", None)
        return not (
            record.levelno <= logging.INFO and isinstance(data, dict) and data.get("name") in (TASK, LEAKS_TASK)
        )


def install(app: Celery, orchestrator: Orchestrator) -> None:
    """Register the sweep, have beat send it, and have the chores done with it."""

    settings = orchestrator.settings
    check = LeakCheck(orchestrator.monitor_store)
    app.task(check.run, name=LEAKS_TASK, acks_late=False, ignore_result=True, shared=False)
    chores = Chores(
        [upkeep.install(app, orchestrator), Chore(LEAKS_TASK, settings.leak_check_every_s, check.run)],
        lambda: orchestrator.store,
        settings.sweep_every_s,
    )

    def sweep() -> dict[str, int]:
        """Find dead workers and hand their messages on; then do the chores that are due."""
        swept = orchestrator.sweep()
        chores.do_due()
        return {"late": swept.late, "dead": len(swept.dead), "moved": swept.moved}

    # Acknowledged early: a sweep that was cut short is made good by the next one, not by itself.
    app.task(sweep, name=TASK, acks_late=False, ignore_result=True, shared=False)
    for noisy in ("celery.worker.strategy", "celery.app.trace"):
        logger = logging.getLogger(noisy)
        if not any(isinstance(known, _Quiet) for known in logger.filters):
            logger.addFilter(_Quiet())
    app.amqp.queues.select_add(mailbox(QUEUE, longest=1))
    # It never expires: that would go by the clocks of two hosts, and one late sweep is all that can be waiting.
    app.conf.beat_schedule = {
        **(app.conf.beat_schedule or {}),
        TASK: {"task": TASK, "schedule": settings.sweep_every_s, "options": {"queue": QUEUE}},
    }
