"""Conversations: what belongs together, as every message says that is sent within one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.core.errors import InvalidPolicy

#: Longest data of a conversation, in characters of JSON: every message carries it.
LONGEST: Final = 1000

#: Agents that one conversation names, at most.
MOST_AGENTS: Final = 100


@dataclass(frozen=True, slots=True)
class Conversation:
    """An id, who takes part, and what its beginner says of it. Handlers see it as ``context.conversation``."""

    id: str
    agents: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """As JSON data."""
        return {"id": self.id, "agents": list(self.agents), "data": dict(self.data)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any] | None) -> Conversation | None:
        """Inverse of :meth:`to_wire`; ``None`` if it is something else."""
        if wire is None:
            return None
        id, agents, data = wire.get("id"), wire.get("agents"), wire.get("data")
        if not isinstance(id, str) or not isinstance(agents, list) or not isinstance(data, dict):
            return None
        return cls(id, tuple(map(str, agents)), data)


#: The conversation that what is sent in this context belongs to.
CURRENT: Final[ContextVar[Conversation | None]] = ContextVar("orchestrator_conversation", default=None)


@contextmanager
def within(conversation: Conversation | None) -> Iterator[None]:
    """Have what is sent meanwhile, in this thread or greenlet, belong to a conversation, or to none."""
    token = CURRENT.set(conversation)
    try:
        yield
    finally:
        CURRENT.reset(token)


def check_data(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data of a conversation.

    Raises:
        InvalidPolicy: it is no JSON object, or too long.
    """
    allowed = f"an object of JSON data, of at most {LONGEST} characters"
    if not isinstance(data, Mapping | None):
        raise InvalidPolicy("data", data, allowed)
    try:
        text = json.dumps(dict(data or {}), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidPolicy("data", data, allowed) from None
    if len(text) > LONGEST:
        raise InvalidPolicy("data", data, allowed)
    loaded: dict[str, Any] = json.loads(text)
    return loaded
