"""How many messages a worker claims, where its user has not said."""

from __future__ import annotations

from typing import Any

import click
from celery import Task

_SETTING = "worker_prefetch_multiplier"
_OLD_SETTING = "CELERYD_PREFETCH_MULTIPLIER"


def claim_by_free_slots(worker: Any) -> bool:
    """Have a worker hold no more than it can run, unless its user set the prefetch multiplier.

    A worker that has tasks with a ``Strategy`` of their own keeps Celery's: they collect messages before they run.
    Celery's default is 4: behind a slow message lie three that no other worker can have, though it may be idle.

    Returns:
        Whether it does so; then its channel may claim ahead, and requeue what gets no slot soon.
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
