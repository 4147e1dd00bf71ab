"""The monitor manager's sweep, as a task that beat schedules.

Any worker may serve it; one that does nothing else does it best.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery import Celery

from orchestrator.monitors.leak_check import LeakCheck
from orchestrator.sending.mailbox import mailbox

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

#: The manager's mailbox. It holds one message at most: a sweep that waits makes the next one superfluous.
QUEUE = "monitor-manager"
TASK = "orchestrator.sweep"
LEAKS_TASK = "orchestrator.monitor-leaks"
_TASKS = (TASK, LEAKS_TASK)


class _Quiet(logging.Filter):
    """Keeps Celery from telling every second that a sweep was received and succeeded."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        data = getattr(record, "data", None)
        return not (
            record.levelno <= logging.INFO and isinstance(data, dict) and data.get("name") in (TASK, LEAKS_TASK)
        )


def install(app: Celery, orchestrator: Orchestrator) -> None:
    """Register the sweep and have beat send it."""

    def sweep() -> dict[str, int]:
        """Find dead workers and hand their messages on."""
        swept = orchestrator.sweep()
        return {"late": swept.late, "dead": len(swept.dead), "moved": swept.moved}

    # Acknowledged early: a sweep that was cut short is made good by the next one, not by itself.
    app.task(sweep, name=TASK, acks_late=False, ignore_result=True, shared=False)
    check = LeakCheck(orchestrator.monitor_store)
    app.task(check.run, name=LEAKS_TASK, acks_late=False, ignore_result=True, shared=False)
    for noisy in ("celery.worker.strategy", "celery.app.trace"):
        logger = logging.getLogger(noisy)
        if not any(isinstance(known, _Quiet) for known in logger.filters):
            logger.addFilter(_Quiet())
    app.amqp.queues.select_add(mailbox(QUEUE, longest=1))
    leaks_every_s = orchestrator.settings.leak_check_every_s
    every_s = orchestrator.settings.sweep_every_s
    app.conf.beat_schedule = {
        **(app.conf.beat_schedule or {}),
        TASK: {
            "task": TASK,
            "schedule": every_s,
            "options": {"queue": QUEUE, "expires": max(every_s * 2, 2.0)},
        },
        LEAKS_TASK: {
            "task": LEAKS_TASK,
            "schedule": leaks_every_s,
            "options": {"queue": QUEUE, "expires": leaks_every_s},
        },
    }
