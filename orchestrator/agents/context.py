"""What a handler knows about the message it handles, besides the message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import NoOwner

if TYPE_CHECKING:
    from orchestrator.agents.agent import Agent
    from orchestrator.app import Orchestrator


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to every handler that asks for it."""

    #: The delivery's id.
    id: str
    agent: str
    #: 1 for the first attempt.
    attempt: int
    #: The worker that runs this, as Celery names it.
    worker: str
    #: Whether the message may have been handled before, by a worker that died.
    redelivered: bool
    #: What the sender attached.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    orchestrator: Orchestrator | None = None
    #: The incarnation that runs this, as the registry names it.
    incarnation: str = ""

    def monitor(self, target: str | type[Agent], tag: Any = "") -> int:
        """Have this incarnation told when ``target`` has died; returns the monitor's ref.

        The agent's ``on_down`` is called. See :class:`orchestrator.monitors.monitors.Monitors`.

        Raises:
            NoOwner: this context does not come from a worker.
            OwnerGone: this incarnation was declared dead.
            InvalidPolicy: target or tag are not what they may be.
            BrokerUnavailable: Redis is away.
        """
        if self.orchestrator is None:
            raise NoOwner
        return self.orchestrator.monitors.monitor(target, tag)
