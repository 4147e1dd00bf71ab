"""Methods of an agent that run by a schedule: `@every` and `@cron`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar, Unpack

from pydantic import create_model

from orchestrator.agents.marks import PeriodicMark, mark
from orchestrator.core.errors import InvalidDeclaration, InvalidSchedule
from orchestrator.core.message import Message
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.options import PeriodicOptions, define
from orchestrator.core.schedules.values import AgentRecipient, Source

F = TypeVar("F", bound=Callable[..., Any])

#: What a fire's message says in its metadata: the schedule, the nominal time in ISO format, and how many nominal times
#: before it were coalesced into it, if any were.
SCHEDULE: Final = "schedule"
SCHEDULED_FOR: Final = "scheduled_for"
MISSED: Final = "missed"


@dataclass(frozen=True, slots=True)
class Fire:
    """The arguments of a periodic method."""

    #: The schedule's id.
    schedule: str
    #: The nominal time that this fire is for; ``None`` if it was sent by other means than its schedule.
    scheduled_for: datetime | None
    #: How many nominal times before it were coalesced into it.
    missed: int = 0


def every(every_s: float, **options: Unpack[PeriodicOptions]) -> Callable[[F], F]:
    """Call a method of an agent every ``every_s`` seconds, at a fixed rate, with a :class:`Fire` and its context.

    Each fire goes to the agent's mailbox, and is handled by one of the workers that host it. The schedule is called
    ``AGENT.METHOD``. ``options`` are those of :meth:`Schedules.add`.
    """
    return mark(PeriodicMark({"every_s": every_s, **options}))


def cron(expression: str, **options: Unpack[PeriodicOptions]) -> Callable[[F], F]:
    """The same by a cron expression: ``@cron("0 3 * * *", tz="Europe/Berlin")``."""
    return mark(PeriodicMark({"cron": expression, **options}))


def periodic_definition(agent: str, method: str, periodic: PeriodicMark) -> ScheduleDefinition:
    """The schedule of a periodic method.

    Raises:
        InvalidDeclaration: an option has a value that is not allowed.
    """
    try:
        return define(
            f"{agent}.{method}", AgentRecipient(agent, method), periodic.options, now_ms=0, source=Source.STATIC
        )
    except (InvalidSchedule, TypeError) as error:
        raise InvalidDeclaration(f"{agent}.{method}: {error}") from None


def fire_message(method: str) -> type[Message]:
    """The message by which a periodic method is called; it has no fields."""
    return create_model(method, __base__=Message)


def fire_of(metadata: Mapping[str, Any]) -> Fire:
    """The fire that a message's metadata describes."""
    missed = metadata.get(MISSED, 0)
    return Fire(str(metadata.get(SCHEDULE, "")), scheduled_for_in(metadata), missed if isinstance(missed, int) else 0)


def scheduled_for_in(metadata: Mapping[str, Any]) -> datetime | None:
    """The nominal time that a message was fired for; ``None`` if no schedule has sent it."""
    value = metadata.get(SCHEDULED_FOR)
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
