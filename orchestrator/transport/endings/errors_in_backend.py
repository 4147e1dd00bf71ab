"""The errors that Celery's result backend holds for a message that ended outside of an execution."""

from __future__ import annotations

from billiard.exceptions import WorkerLostError

from orchestrator.core.errors import InfrastructureError


class PoisonMessage(InfrastructureError, WorkerLostError):
    """The message killed ``max_deaths`` worker processes, and is a dead letter."""

    #: A result backend stores this module name, and clients import the class from it.
    __module__ = "orchestrator"


class MessageDropped(InfrastructureError):
    """The message was dropped before its execution (a full mailbox, no bound queue), and is a dead letter."""

    __module__ = "orchestrator"


class SettlementFailed(InfrastructureError):
    """The message was executed, but its worker could not settle it; it is a dead letter."""

    __module__ = "orchestrator"
