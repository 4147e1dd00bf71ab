"""The mailbox that a message ends in, by its own options, its task's and the app's routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

from orchestrator.core.errors import InvalidPolicy
from orchestrator.sending.mailbox import why_temporary
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name


def queue_of(app: Celery, outgoing: OutgoingMessage, place: Mapping[str, Any] | None = None) -> str:
    """The name of the mailbox that a message goes to, by its task's own options and the routes.

    ``place`` is where its task's class has published it, if the class has its own ``apply_async``.
    """
    return _destination(app, outgoing, place)[0]


def checked_queue_of(app: Celery, outgoing: OutgoingMessage) -> str:
    """The name of the mailbox that a message goes to, checked.

    Raises:
        InvalidPolicy: it is a broadcast queue, of which each worker reads a copy, so that there is no single outcome;
            or a queue that expires, whose messages would vanish without an outcome.
    """
    name, exchange = _destination(app, outgoing)
    if outgoing.supervision.agent:
        return name
    queues = app.amqp.queues
    declared = queues.get(name) or queues.aliases.get(name)
    used = [declared.exchange] if declared is not None and not exchange else []
    used += [queue.exchange for queue in queues.values() if exchange and queue.exchange.name == exchange]
    if any(exchange.type == "fanout" for exchange in used):
        raise InvalidPolicy("queue", name, "a queue whose messages are read by one worker each, not a broadcast queue")
    given = outgoing.options.get("queue") if outgoing.queue is None else outgoing.queue
    for queue in (given, declared):
        if why := why_temporary(queue):
            raise InvalidPolicy("queue", name, f"a queue that lasts; this one {why}, and its messages with it")
    return name


def _destination(app: Celery, outgoing: OutgoingMessage, place: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """The names of the queue and of the exchange; the latter is empty where the queue's own is used."""
    if place is None and outgoing.queue is not None and not outgoing.options:
        return queue_name(outgoing), ""
    given = {**outgoing.options, "queue": outgoing.queue} if place is None else place
    if given.get("queue") is not None and not given.get("exchange"):
        return str(getattr(given["queue"], "name", given["queue"])), ""
    task = app.tasks.get(outgoing.task)
    own = {} if task is None else {name: value for name, value in task._get_exec_options().items() if value is not None}
    own |= {name: given[name] for name in ("queue", "exchange", "routing_key") if given.get(name) is not None}
    route = app.amqp.router.route(own, outgoing.task, outgoing.args, outgoing.kwargs, task)
    queue, exchange, key = route.get("queue"), route.get("exchange"), route.get("routing_key")
    name = str(app.conf.task_default_queue if queue is None else queue.name)
    exchange = str(getattr(exchange, "name", exchange) or "")
    if not exchange or not key:
        return name, exchange
    # As a direct exchange routes: kombu knows no other kind here without having declared it.
    declared = app.amqp.queues.values()
    bound = {str(other.name) for other in declared if (other.exchange.name, other.routing_key) == (exchange, key)}
    return (name if name in bound or not bound else min(bound)), exchange
