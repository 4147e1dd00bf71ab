"""Refuses timeouts that contradict each other before a worker starts. ``startup_warnings.py`` has the wasteful ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery, bootsteps
from celery.concurrency.prefork import TaskPool as PreforkPool

from orchestrator.core.errors import InvalidSettings
from orchestrator.core.policies.effective import impossible
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.sending.address import Address
from orchestrator.worker.configuration import Configuration
from orchestrator.worker.startup_warnings import grouped, own_tasks


class ValidateTimeouts(bootsteps.Step):
    """A bootstep of the worker, made after imports and configuration; by raising, it prevents the start."""

    def __init__(self, parent: Any, **_: Any) -> None:
        orchestrator = getattr(parent.app, "orchestrator", None)
        if orchestrator is not None:
            # Imported here, because that module imports this one.
            from orchestrator.worker.bootsteps.start import refuse_start

            refuse_start(orchestrator.runtime, parent)


def refuse_app(app: Celery, configuration: Configuration) -> None:
    """Check the app's own configuration of time limits, contents and the transport.

    Raises:
        InvalidSettings: values contradict each other, or are not supported.
    """
    if app.conf.task_protocol != 2:
        raise InvalidSettings(
            [f"task_protocol={app.conf.task_protocol!r}; allowed: 2, whose headers carry supervision"]
        )
    _refuse(
        [
            *configuration.problems(),
            *_limits(
                "task_soft_time_limit", app.conf.task_soft_time_limit, "task_time_limit", app.conf.task_time_limit
            ),
        ]
    )


def refuse_policies(addresses: Iterable[Address]) -> None:
    """Check policies for values that contradict each other.

    Raises:
        InvalidSettings: there are some.
    """
    _refuse(grouped((address.task, line) for address in addresses for line in impossible(address.policy)))


def refuse_worker(worker: Any, addresses: Iterable[Address], timeouts: Timeouts) -> None:
    """Check the time limits and policies of the tasks that a worker runs.

    Raises:
        InvalidSettings: values contradict each other.
    """
    app: Celery = worker.app
    of_all = worker.soft_time_limit, worker.time_limit
    _refuse(_limits("soft_time_limit of the worker", of_all[0], "time_limit of the worker", of_all[1]))
    known = {address.task: address.policy for address in addresses}
    prefork = isinstance(worker.pool_cls, type) and issubclass(worker.pool_cls, PreforkPool)
    lines: list[tuple[str, str]] = []
    for name, task in own_tasks(app):
        policy = known.get(name) or timeouts.merged(name)
        lines += ((name, line) for line in impossible(policy))
        limits = task.soft_time_limit or of_all[0], task.time_limit or of_all[1]
        if not _celery_refuses_sends(task):
            lines += ((name, line) for line in _limits("soft_time_limit", limits[0], "time_limit", limits[1]))
        timeout_s = timeouts.scaled(policy.timeout_s)
        # Only prefork kills, so only there a hard limit can come before the timeout.
        is_own = prefork and timeout_s is not None and not policy.has_default_timeout
        if is_own and timeout_s is not None and limits[1] and timeout_s >= limits[1]:
            by = policy.sources["timeout_s"]
            lines.append((name, f"timeout_s={timeout_s:g} (said by {by}); allowed: below time_limit={limits[1]:g}"))
    _refuse(grouped(lines))


def _celery_refuses_sends(task: Any) -> bool:
    """Whether the task's own limits are such that Celery raises ``ValueError`` wherever it is sent."""
    return bool(task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit > 0)


def useless_limits(worker: Any) -> list[str]:
    """Startup warnings about tasks whose soft limit may never be raised, and tasks that Celery refuses to send.

    Celery starts a worker with either, so it is no error here.
    """
    lines = []
    for name, task in own_tasks(worker.app):
        soft_s, hard_s = task.soft_time_limit or worker.soft_time_limit, task.time_limit or worker.time_limit
        if _celery_refuses_sends(task):
            limits = f"soft_time_limit={task.soft_time_limit:g} is above time_limit={task.time_limit:g}"
            lines.append((name, f"{limits}, so Celery refuses to send it"))
        elif soft_s and soft_s == hard_s:
            lines.append((name, f"soft_time_limit={soft_s:g} equals time_limit, which may kill before it interrupts"))
    return grouped(lines)


def _limits(soft: str, soft_s: float | None, hard: str, hard_s: float | None) -> Iterator[str]:
    """Celery's soft and hard limit; it takes 0 for none."""
    for name, limit_s in ((soft, soft_s), (hard, hard_s)):
        if limit_s is not None and limit_s < 0:
            yield f"{name}={limit_s:g}; allowed: seconds above 0"
    if soft_s and hard_s and 0 < hard_s < soft_s:
        yield f"{soft}={soft_s:g}; allowed: at most {hard}={hard_s:g}, which kills what it would interrupt"


def _refuse(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise InvalidSettings(found)
