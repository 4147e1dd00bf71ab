"""The number of messages that a worker claims if its user has not set it."""

from __future__ import annotations

from typing import Any

import click
from celery import Task

_SETTING = "worker_prefetch_multiplier"
_OLD_SETTING = "CELERYD_PREFETCH_MULTIPLIER"


def claim_by_free_slots(worker: Any) -> bool:
    """Have a worker hold no more messages than it can run, unless its user set the prefetch multiplier.

    With Celery's default of 4, three messages wait behind a slow one, although another worker may be idle. A worker
    that has tasks with their own ``Strategy`` keeps the default, because these collect messages before they run.

    Returns:
        Whether it does so; then its channel may claim ahead and requeue messages that get no slot soon.
    """
    if _collects(worker.app) or _set_by_user(worker.app.conf):
        return False
    worker.prefetch_multiplier = 1
    return True


def _collects(app: Any) -> bool:
    """Whether a task has a strategy of its own."""
    return any(task.Strategy != Task.Strategy for task in app.tasks.values())


def _set_by_user(conf: Any) -> bool:
    """Whether the setting or the option of ``celery worker`` was given."""
    # Resolves a configuration that is pending.
    conf.get(_SETTING)
    # The last one is Celery's defaults.
    if any(name in known for known in conf.maps[:-1] for name in (_SETTING, _OLD_SETTING)):
        return True
    context = click.get_current_context(silent=True)
    # Click calls it the default where Celery's callback filled it in from the settings.
    return context is not None and context.get_parameter_source("prefetch_multiplier") in (
        click.core.ParameterSource.COMMANDLINE,
        click.core.ParameterSource.ENVIRONMENT,
    )
