"""Schedules in Redis, with all that users ask of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import ResponseError

from orchestrator.core.errors import MessageTooLarge, UnknownSchedule
from orchestrator.core.forks import ForkSafeLock
from orchestrator.core.log import get_logger
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import encode_definition
from orchestrator.core.schedules.state import Decision
from orchestrator.core.stored_values import stored_counts, stored_text
from orchestrator.schedules.firing.fire_writer import FireWriter
from orchestrator.schedules.history import HistoryEntry, entry_of
from orchestrator.schedules.redis import scripts
from orchestrator.schedules.redis.stored_state import change_of
from orchestrator.schedules.redis.writing import NextAfterOf, ScheduleWriter
from orchestrator.transport.admission.flow_control import refusal
from orchestrator.transport.redis.lost_answers import again_if_lost
from orchestrator.transport.store import Store

logger = get_logger(__name__)

#: Entries of the history that one command reads.
_PAGE: Final = 1000

#: A message is at most this many times as long as its definition, or it is far below any limit.
_MOST_GROWTH: Final = 8


class RedisSchedules(ScheduleWriter):
    """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""

    def __init__(
        self,
        store: Callable[[], Store],
        most: int,
        most_history: int,
        next_after_of: NextAfterOf,
        fire_writer: FireWriter,
        app_name: str,
    ) -> None:
        super().__init__(store, most, most_history, next_after_of)
        self._fire_writer = fire_writer
        self._app_name = app_name
        self._writing = ForkSafeLock()

    def check(self, definition: ScheduleDefinition) -> None:
        """See :class:`SchedulesBackend`."""
        self._fire_writer.outgoing(definition, "", "")
        limit = self.store.options.max_message_bytes
        if limit and _MOST_GROWTH * len(encode_definition(definition)) > limit:
            with self._writing:
                size = self._fire_writer.size_of(definition)
            if size > limit:
                raise MessageTooLarge(size, limit)

    def is_declared_by(self, app_name: str) -> bool:
        """See :class:`SchedulesBackend`."""
        if app_name == self._app_name:
            return True
        keys = self.store.keys
        schedulers: Any = self.ask(lambda client: client.hgetall(keys.schedulers))
        sets = [
            keys.scheduler_declares(stored_text(name))
            for name, app in schedulers.items()
            if stored_text(app) == app_name
        ]
        return bool(sets) and bool(self.ask(lambda client: client.exists(*sets)))

    def send(self, definition: ScheduleDefinition, decisions: Sequence[Decision]) -> None:
        """See :class:`SchedulesBackend`."""
        messages = []
        with self._writing:
            self._fire_writer.look_around()
            for decision in decisions:
                fire = decision.fire
                if fire is None:
                    continue
                written = self._fire_writer.write(definition, fire.nominal_ms, fire.delivery_id)
                messages.append((written, change_of(decision, decision.state)))
        store = self.store
        call = scripts.send_for_schedule(
            store.keys, definition.id, messages, token=secrets.token_hex(12), most_history=self._most_history
        )
        accepted, why = again_if_lost(lambda: store.run(*call))
        if accepted < 0:
            raise UnknownSchedule(definition.id)
        if why:
            error = refusal(messages[accepted][0].queue, why)
            error.accepted, error.requested = accepted, len(messages)
            raise error

    def history(self, schedule_id: str | None, count: int, before_ms: int | None = None) -> list[HistoryEntry]:
        """See :class:`SchedulesBackend`."""
        key = self.store.keys.schedule_fires
        found: list[HistoryEntry] = []
        until = "+" if before_ms is None else f"({before_ms}"
        while len(found) < count:
            page = self._ask_shared(key, partial(_read_back, key, until), [])
            for raw_id, raw in page:
                fields = {stored_text(name): stored_text(value) for name, value in raw.items()}
                if schedule_id is not None and fields.get("s") != schedule_id:
                    continue
                entry = entry_of(stored_text(raw_id), fields)
                if entry is not None and len(found) < count:
                    found.append(entry)
            if len(page) < _PAGE:
                break
            until = f"({stored_text(page[-1][0])}"
        return found

    def ledger(self) -> Mapping[str, int]:
        """See :class:`SchedulesBackend`."""
        key = self.store.keys.schedule_ledger
        return stored_counts(key, self._ask_shared(key, lambda client: client.hgetall(key), {}))

    def _ask_shared(self, key: str, command: Callable[[Any], Any], otherwise: Any) -> Any:
        """The result of a command on a key that all schedules share; ``otherwise`` if the key is of another type."""

        def ask(client: Any) -> Any:
            try:
                return command(client)
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                logger.error("%s cannot be read, and is set aside when it is written next: %s", key, error)
                return otherwise

        return self.ask(ask)


def _read_back(key: str, until: str, client: Any) -> Any:
    return client.xrevrange(key, until, "-", count=_PAGE)
