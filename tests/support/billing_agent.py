"""An agent that does nothing, for tests of how apps and settings are read."""

from __future__ import annotations

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles
from orchestrator.core.settings import Settings


class Charge(Message):
    """A message."""

    cents: int


class Billing(Agent):
    """An agent."""

    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> None:
        """Do nothing."""


def nothing() -> None:
    """A task that does nothing."""


def orchestrated(app: Celery, settings: Settings | None = None) -> Orchestrator:
    """An Orchestrator that hosts the agent."""
    orchestrator = Orchestrator(app, settings)
    orchestrator.host(Billing)
    return orchestrator
