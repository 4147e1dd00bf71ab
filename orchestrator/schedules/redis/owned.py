"""Schedules that belong to an incarnation of an agent, and end when it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from orchestrator.core.errors import NoOwner, UnknownSchedule
from orchestrator.core.message import Message
from orchestrator.core.schedules.options import ScheduleOptions
from orchestrator.schedules.backend import SchedulesBackend
from orchestrator.schedules.info import ScheduleInfo, info_of

if TYPE_CHECKING:
    from orchestrator.schedules.schedule import Schedule
    from orchestrator.schedules.schedules import Schedules


@dataclass(frozen=True, slots=True)
class OwnedStats:
    """The schedules of one incarnation, in numbers."""

    #: How many there are now.
    schedules: int
    fired: int
    missed: int
    skipped: int


class OwnedSchedules:
    """The schedules of one incarnation. They send to its agent, and end in the sweep that finds it dead.

    A name is the incarnation's own: two incarnations of an agent may use the same.
    """

    __slots__ = ("_agent", "_backend", "_incarnation", "_schedules")

    def __init__(
        self, schedules: Schedules, backend: Callable[[], SchedulesBackend], incarnation: str, agent: str
    ) -> None:
        if not incarnation:
            raise NoOwner
        self._schedules = schedules
        self._backend = backend
        self._incarnation = incarnation
        self._agent = agent

    def register(self, name: str, message: Message, **options: Unpack[ScheduleOptions]) -> None:
        """Have the agent sent ``message`` at the times that options say. The same name again replaces the schedule.

        Raises:
            InvalidSchedule: options have values that are not allowed.
            UnknownMessage: the agent does not handle that message.
            OwnerGone: the incarnation was declared dead.
            BrokerUnavailable: Redis is away.
        """
        definition, next_after = self._schedules.define(
            self.id_of(name), self._agent, message, options=options, owner=self._incarnation
        )
        self._backend().add(definition, self._owner, "replace", next_after)

    def unregister(self, name: str) -> None:
        """End a schedule.

        Raises:
            UnknownSchedule: there is none of that name.
            BrokerUnavailable: Redis is away.
        """
        if not self._backend().remove(self.id_of(name)):
            raise UnknownSchedule(name, self.names())

    def unregister_all(self) -> int:
        """End all of them; returns how many there were."""
        backend = self._backend()
        return sum(backend.remove(schedule_id) for schedule_id in backend.of_owner(self._owner))

    def update_interval(self, name: str, every_s: float) -> None:
        """Give a schedule another interval, which begins now.

        Raises:
            UnknownSchedule: there is none of that name.
            InvalidSchedule: the interval is not allowed.
            BrokerUnavailable: Redis is away.
        """
        self._own(name).update(every_s=every_s)

    def force(self, name: str) -> str:
        """Send now; the times go on as before. Returns the delivery's id.

        Raises:
            UnknownSchedule: there is none of that name.
            MailboxFull, CircuitOpen: flow control refused it.
            BrokerUnavailable: Redis is away.
        """
        return self._own(name).trigger()

    def names(self) -> list[str]:
        """The names of all of them."""
        prefix = self.id_of("")
        return [schedule_id.removeprefix(prefix) for schedule_id in self._backend().of_owner(self._owner)]

    def list(self) -> list[ScheduleInfo]:
        """All of them, with their states."""
        backend = self._backend()
        found = backend.read(backend.of_owner(self._owner))
        return [info_of(stored) for stored in found if stored is not None]

    def stats(self) -> OwnedStats:
        """The number of schedules, and the counts of their times."""
        infos = self.list()
        counts = [info.counts for info in infos]
        return OwnedStats(
            len(infos), sum(c.fired for c in counts), sum(c.missed for c in counts), sum(c.skipped for c in counts)
        )

    def id_of(self, name: str) -> str:
        """The id under which a schedule of that name is known."""
        return f"{self._incarnation.replace(':', '.')}/{name}"

    @property
    def _owner(self) -> str:
        return f"i:{self._incarnation}"

    def _own(self, name: str) -> Schedule:
        schedule_id = self.id_of(name)
        if schedule_id not in self._backend().of_owner(self._owner):
            raise UnknownSchedule(name, self.names())
        return self._schedules[schedule_id]
