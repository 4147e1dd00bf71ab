"""The protocol of what holds schedules: Redis, or this process in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.state import Decision
from orchestrator.core.schedules.triggers import Times
from orchestrator.schedules.declared.celery_schedules import NextAfter
from orchestrator.schedules.history import HistoryEntry
from orchestrator.schedules.redis.stored import StoredSchedule


class SchedulesBackend(Protocol):
    """Holds schedules. In Redis, all raise ``BrokerUnavailable`` while that is away."""

    def now_ms(self) -> int:
        """The time by which schedules are due."""

    def ids(self) -> Iterator[str]:
        """The ids of all schedules."""

    def count(self) -> int:
        """The number of schedules."""

    def read(self, ids: Sequence[str]) -> list[StoredSchedule | None]:
        """Schedules by their ids, in that order; ``None`` for one that does not exist."""

    def leftovers(self) -> list[StoredSchedule]:
        """The schedules that were set aside and have no definition any more."""

    def existing(self, schedule_id: str) -> StoredSchedule:
        """A schedule.

        Raises:
            UnknownSchedule: there is none.
        """

    def of_owner(self, owner: str) -> list[str]:
        """The ids of an owner's schedules."""

    def times(self, definition: ScheduleDefinition, from_ms: int) -> Times | None:
        """The times of a foreign trigger; ``None`` for any other, or if only the code that declares it has them."""

    def add(
        self,
        definition: ScheduleDefinition,
        owner: str,
        if_exists: str,
        next_after: NextAfter | None,
        last_ms: int | None = None,
    ) -> None:
        """Add a schedule, or change it.

        Raises:
            ScheduleExists: there is one, and ``if_exists`` is ``"error"``.
            InvalidSchedule: there would be too many.
            OwnerGone: its owner was declared dead.
        """

    def change(self, schedule_id: str, decide: Callable[[StoredSchedule, int], Decision | None]) -> bool:
        """Change a schedule's state as ``decide`` says, by what is stored and the time; whether it did.

        Raises:
            UnknownSchedule: there is no such schedule.
            InvalidSchedule: its definition is gone.
        """

    def is_declared_by(self, app_name: str) -> bool:
        """Whether an app's static schedules are declared: it is this app, or a living scheduler declares them."""

    def remove(self, schedule_id: str) -> bool:
        """Remove a schedule; whether there was one."""

    def send(self, definition: ScheduleDefinition, decisions: Sequence[Decision]) -> None:
        """Send a schedule's message beside its plan, once for each decision.

        Raises:
            MailboxFull, CircuitOpen: flow control refused it; ``accepted`` says after how many.
        """

    def history(self, schedule_id: str | None, count: int, before_ms: int | None = None) -> list[HistoryEntry]:
        """The newest entries of the history, of one schedule or of all."""

    def ledger(self) -> Mapping[str, int]:
        """The totals of all schedules: due, fired, coalesced, missed, skipped; the last two also by reason."""

    def check(self, definition: ScheduleDefinition) -> None:
        """Refuse a recipient that does not exist.

        Raises:
            UnknownAgent, UnknownMessage, InvalidPolicy: it does not, or cannot be sent to under supervision.
        """
