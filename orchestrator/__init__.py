"""Task orchestration on Celery with the supervision of Erlang/OTP."""

from orchestrator.agents.agent import Agent, handles
from orchestrator.agents.context import Context
from orchestrator.app import Orchestrator
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.message import Message
from orchestrator.core.outcome import Cancelled, Dead, Expired, Handled, Outcome
from orchestrator.core.policy import Exponential, OnError, Retry
from orchestrator.core.settings import Settings, load_settings
from orchestrator.sending.delivery import Delivery

__all__ = [
    "Agent",
    "Cancelled",
    "Context",
    "Dead",
    "Delivery",
    "Expired",
    "Exponential",
    "Handled",
    "Message",
    "OnError",
    "Orchestrator",
    "OrchestratorError",
    "Outcome",
    "Retry",
    "Settings",
    "handles",
    "load_settings",
]
