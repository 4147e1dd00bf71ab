"""The errors that Celery's result backend holds for a message that ended outside of an execution."""

from __future__ import annotations

from billiard.exceptions import WorkerLostError

from orchestrator.core.errors import InfrastructureError


class PoisonMessage(InfrastructureError, WorkerLostError):
    """The message killed as many processes as it may (``max_deaths``), and is a dead letter."""

    #: Where it is imported from. A result backend keeps this name, and a client looks it up there.
    __module__ = "orchestrator"


class MessageDropped(InfrastructureError):
    """The message was dropped before an execution (a full mailbox, no route), and is a dead letter."""

    __module__ = "orchestrator"


class SettlementFailed(InfrastructureError):
    """The message's execution is over, but its worker could not settle it; it is a dead letter."""

    __module__ = "orchestrator"
