"""What a handler knows about the message it handles, besides the message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
