"""Warnings about settings, policies and tasks that will not work as declared; for start-up and ``policies``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from celery import Celery

from orchestrator.core.policies.effective import impossible, wasteful
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.sending.address import Address
from orchestrator.sending.mailbox import why_temporary
from orchestrator.sending.messages.task_messages import unreadable
from orchestrator.transport.transport import why_not_supervised as why_broker_not_supervised
from orchestrator.worker.hosting import why_task_not_supervised
from orchestrator.worker.pools import why_unknown

#: Pools whose running tasks nothing can interrupt.
_DEAF_POOLS = ("threads", "gevent", "eventlet")

#: Tasks that one warning names, at most.
_NAMED = 10


def startup_warnings(
    app: Celery, addresses: Iterable[Address], pool: str | type = "", served: Collection[str] | None = None
) -> list[str]:
    """All warnings, one line each; ``pool`` is the worker's, if there is one, ``served`` the tasks it serves."""
    known = list(addresses)
    factor = app.orchestrator.settings.timeout_factor if hasattr(app, "orchestrator") else 1.0
    if served is not None:
        known = [address for address in known if address.task in served]
    tasks = [(name, task) for name, task in own_tasks(app) if served is None or name in served]
    return [
        *_broker(app),
        *_unknown_pool(pool),
        *([] if pool and why_unknown(pool) else _tasks(tasks)),
        *_temporary_queues(app),
        *_contents(app, tasks),
        *_policies(known, factor),
        *_pool(_short(pool), known),
    ]


def pool_warnings(pool: str, addresses: list[Address]) -> list[str]:
    """Warnings about what a worker's pool cannot do; ``pool`` is its name in the registry."""
    return _pool(_short(pool), addresses) if _short(pool) in (*_DEAF_POOLS, "solo") else []


def _broker(app: Celery) -> list[str]:
    why = why_broker_not_supervised(app.conf)
    return [f"nothing is supervised: {why}"] if why else []


def _unknown_pool(pool: str | type) -> list[str]:
    why = why_unknown(pool) if pool else ""
    return [f"pool: nothing is supervised, {why}"] if why else []


def _tasks(tasks: list[tuple[str, Any]]) -> list[str]:
    return grouped((name, f"not supervised, {why}") for name, task in tasks if (why := why_task_not_supervised(task)))


def _temporary_queues(app: Celery) -> list[str]:
    if why_broker_not_supervised(app.conf):
        return []
    return [
        f"queue {queue.name!r}: supervised sends to it are refused, for it {why}, and its messages vanish with it"
        for queue in app.amqp.queues.consume_from.values()
        if queue.exchange.type != "fanout" and (why := why_temporary(queue))
    ]


def _contents(app: Celery, tasks: list[tuple[str, Any]]) -> list[str]:
    return grouped(
        (name, f"serializer={task.serializer!r}, so each message becomes a dead letter (malformed); allowed: {why}")
        for name, task in tasks
        if (why := unreadable(app, getattr(task, "serializer", None)))
    )


def own_tasks(app: Celery) -> list[tuple[str, Any]]:
    """The tasks that are neither Celery's nor this library's, by name."""
    return [
        (name, task) for name, task in sorted(app.tasks.items()) if not name.startswith(("celery.", "orchestrator."))
    ]


def governed_tasks(app: Celery, timeouts: Timeouts) -> list[Address]:
    """Plain tasks for which the settings have a timeout or a deadline, each with the policy of a send of it."""
    agents = app.orchestrator.agents.values()
    theirs = {spec.task_name(name) for spec in agents for name in spec.handlers} | {spec.down_task for spec in agents}
    found = []
    for name, task in own_tasks(app):
        policy = timeouts.merged(name)
        if name not in theirs and not why_task_not_supervised(task) and (policy.timeout_s or policy.deadline_s):
            found.append(Address("", name, name, "", policy))
    return found


def _policies(addresses: list[Address], factor: float) -> list[str]:
    return grouped((a.task, line) for a in addresses for line in (*impossible(a.policy), *wasteful(a.policy, factor)))


def grouped(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Lines about tasks: each line once, with all tasks that it is about."""
    of: dict[str, list[str]] = {}
    for task, line in lines:
        of.setdefault(line, []).append(task)
    return [f"{_listed(tasks)}: {line}" for line, tasks in of.items()]


def _listed(tasks: list[str]) -> str:
    return ", ".join(tasks[:_NAMED]) + (f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else "")


def _short(pool: str | type) -> str:
    """A pool as its user names it, whether it comes by its name, by its module and name, or as a class."""
    name = (pool if isinstance(pool, str) else pool.__module__).partition(":")[0].rpartition(".")[2]
    return "threads" if name == "thread" else name


def _pool(pool: str, addresses: list[Address]) -> list[str]:
    def named(limited: Callable[[Address], Any]) -> str:
        return _listed([address.task for address in addresses if limited(address)])

    limited = named(lambda address: address.policy.timeout_s or address.policy.deadline_s)
    if not limited or pool in ("", "prefork", "processes"):
        return []
    if pool in _DEAF_POOLS:
        instead = "timeout_s is only logged when the attempt ends, deadline_s only checked between attempts"
        return [f"{limited}: a {pool} pool cannot interrupt what runs; {instead}"]
    return [f"{limited}: a {pool} pool interrupts at timeout_s, but cannot kill a handler that continues"]
