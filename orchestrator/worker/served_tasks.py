"""Finds which of an app's tasks a worker serves: those whose messages come to the queues that it consumes from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from celery import Celery

from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.sending.address import Address
from orchestrator.sending.destination import queue_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


def served_tasks(app: Celery, queues: Collection[str], mailboxes: Mapping[str, str]) -> set[str]:
    """Names of the tasks whose messages come to these queues; ``mailboxes`` has those of agents' tasks.

    A task whose queue depends on its arguments counts as served.
    """
    served = set()
    for name in app.tasks:
        try:
            queue = mailboxes.get(name) or queue_of(app, OutgoingMessage("", name, (), Supervision()))
        except Exception:  # noqa: BLE001 - a router of the user's, which was given no arguments
            served.add(name)
        else:
            if queue in queues:
                served.add(name)
    return served


def served_addresses(
    app: Celery, addresses: Iterable[Address], queues: Collection[str], mailboxes: Mapping[str, str]
) -> list[Address]:
    """The addresses whose messages come to these queues; ``mailboxes`` has those of agents' tasks."""
    tasks = served_tasks(app, queues, mailboxes)
    # Of an agent that is not declared here, only the mailbox is known.
    return [a for a in addresses if a.task in tasks or (a.task not in app.tasks and str(a.queue) in queues)]
