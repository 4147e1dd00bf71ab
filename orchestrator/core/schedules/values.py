"""The parts of a schedule's definition: policies, where it comes from, and who gets its fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.secrets.masked_repr import summary

#: How late a time may be with ``misfire="skip"`` where no grace is given.
SKIP_GRACE_S: Final = 60.0


class Misfire(StrEnum):
    """The treatment of nominal times that could not be fired when they were due."""

    #: One fire for all of them, at the latest one.
    COALESCE = "coalesce"
    #: A fire for each.
    ALL = "all"
    #: None, but for the latest one if it is within the grace (60 s unless another one is given).
    SKIP = "skip"


class Overlap(StrEnum):
    """The treatment of a due time while the delivery of the last fire has no outcome yet."""

    ALLOW = "allow"
    SKIP = "skip"
    #: One time waits for the outcome, further ones are skipped.
    BUFFER_ONE = "buffer_one"


class Source(StrEnum):
    """The origin of a schedule, which decides who may end it."""

    #: Declared in code: it lives while a living process declares it.
    STATIC = "static"
    #: Added at run time: it lives until it is removed or has ended.
    DYNAMIC = "dynamic"
    #: Owned by an incarnation: it ends with it.
    OWNED = "owned"


@dataclass(frozen=True, slots=True)
class AgentRecipient:
    """An agent, the name of the message that it gets, and the message's fields as JSON data."""

    agent: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return summary(self, ("agent", "message", "fields"))


@dataclass(frozen=True, slots=True)
class TaskRecipient:
    """A plain Celery task, its arguments, and Celery's options of a send (``queue``, ``expires``, ...)."""

    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Whether arguments are made at each fire by the process that declares the schedule (``BeatLazyFunc``).
    is_lazy: bool = False

    def __repr__(self) -> str:
        return summary(self, ("task", "args", "kwargs", "options", "is_lazy"))


Recipient = AgentRecipient | TaskRecipient
