"""Installs an Orchestrator in its Celery app: its sends, tasks and boot steps, and what happens at a worker's start."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery import signals

from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.maintenance.housekeeping_clock import start_with_beat
from orchestrator.sending.celery_sends import SendTask
from orchestrator.sending.mailbox import mailbox
from orchestrator.sending.messages.masked_amqp import mask_arguments
from orchestrator.worker.execution.replacement_failed import add_tasks
from orchestrator.worker.hosting import supervise_tasks

if TYPE_CHECKING:
    from orchestrator.wiring.runtime import Runtime

# By name: only a worker imports them.
_WORKER_STEPS = (
    "orchestrator.worker.bootsteps.exit_reason:RecordExitReason",
    "orchestrator.worker.examine_redis:ExamineRedis",
    "orchestrator.worker.bootsteps.validate_timeouts:ValidateTimeouts",
)
_CONSUMER_STEPS = (
    "orchestrator.worker.bootsteps.dead_letter_unprocessable:DeadLetterUnprocessable",
    "orchestrator.worker.bootsteps.reap_pool:ReapPool",
    "orchestrator.worker.bootsteps.forward_telemetry:ForwardTelemetry",
    "orchestrator.maintenance.housekeeping:Housekeeping",
    "orchestrator.maintenance.substitute_scheduler:ScheduleInPlaceOfBeat",
    "orchestrator.coordination.candidates:CampaignForSingletons",
)


def install(runtime: Runtime) -> None:
    """Install the Orchestrator, which the app has as an attribute by now."""
    app = runtime.app
    mask_arguments(app)
    app.send_task = SendTask(app, lambda task, options: runtime.sender.by_celery(task, options))
    app.steps["worker"].update(_WORKER_STEPS)
    app.steps["consumer"].update(_CONSUMER_STEPS)
    add_tasks(app)
    app.on_after_finalize.connect(lambda **_: supervise_tasks(app), weak=False)
    if app.finalized:
        supervise_tasks(app)
    # The monitor manager: beat fills its mailbox, and workers that consume it do the housekeeping.
    runtime.configuration.add_mailbox(mailbox(HOUSEKEEPING_QUEUE, longest=1))
    start_with_beat(app, runtime.settings.sweep_interval_s)
    if "celery.bin" in sys.modules:
        # `celery control` knows the commands that are registered once the app is loaded: ours is `deploy`.
        from orchestrator.worker.bootsteps import exit_reason  # noqa: F401
    _follow_worker_start(runtime)


def _follow_worker_start(runtime: Runtime) -> None:
    """Connect to Celery's signals, which come for the workers of all apps in this process."""
    app = runtime.app

    def on_init(sender: str = "", instance: Any = None, **_: Any) -> None:
        if instance is not None and instance.app is app:
            from orchestrator.worker.bootsteps.start import begin_worker

            begin_worker(runtime, sender, instance)

    def on_configured(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is app:
            from orchestrator.worker.prefetch import claim_by_free_slots

            runtime.configuration.claim_ahead = claim_by_free_slots(sender)

    def on_set_up(instance: Any = None, **_: Any) -> None:
        # Everything is imported by now, and nothing has run: tasks that came after finalizing are caught here.
        if instance is not None and instance.app is app:
            from orchestrator.worker.bootsteps.start import warn_at_start

            supervise_tasks(app)
            warn_at_start(runtime, instance)

    signals.celeryd_init.connect(on_init, weak=False)
    signals.worker_init.connect(on_configured, weak=False)
    signals.celeryd_after_setup.connect(on_set_up, weak=False)
