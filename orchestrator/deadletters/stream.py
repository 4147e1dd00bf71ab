"""The dead-letter log in Redis. The transport writes it, in the step that ends the delivery."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError, ResponseError

from orchestrator.core.errors import BrokerUnavailable, CallerError, UnknownDeadLetter
from orchestrator.deadletters.letter import DeadLetter, read_letter, renewed
from orchestrator.telemetry import emit, events
from orchestrator.transport.flow import refusal
from orchestrator.transport.store import Store

#: Letters removed per script, so that Redis is never held for long.
_PURGE_BATCH = 2000

_ID = re.compile(r"\d+-\d+")


class StreamDeadLetters:
    """Implements :class:`~orchestrator.deadletters.log.DeadLetters`.

    Every method raises :class:`BrokerUnavailable` when Redis is away.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.keys.dead_letters

    def list(self, limit: int = 50, *, before: str | None = None) -> list[DeadLetter]:
        """Newest first; ``before`` an id for the next page."""
        top = f"({self._known_form(before)}" if before else "+"
        rows = self._call(lambda: self._store.client.xrevrange(self._key, max=top, min="-", count=limit))
        return [read_letter(entry.decode(), fields) for entry, fields in rows]

    def count(self) -> int:
        """How many there are."""
        return int(self._call(lambda: self._store.client.xlen(self._key)))

    def get(self, letter_id: str) -> DeadLetter:
        """One letter."""
        form = self._known_form(letter_id)
        rows = self._call(lambda: self._store.client.xrange(self._key, min=form, max=form))
        if not rows:
            raise UnknownDeadLetter(letter_id)
        return read_letter(rows[0][0].decode(), rows[0][1])

    def retry(self, letter_id: str) -> str:
        """Send it again. Removing it and publishing it is one step, so two who ask at once cause one retry."""
        letter = self.get(letter_id)
        if not letter.queue:
            raise CallerError(f"dead letter {letter.id!r} names no mailbox that it could be sent to")
        k = self._store.keys
        first_priority = self._store.steps[1]
        sent = self._store.run(
            "replay",
            [self._key, k.step(letter.queue, first_priority), k.ledger(letter.queue), k.queues],
            [letter.id, renewed(letter), letter.queue],
        )
        if not sent:
            raise UnknownDeadLetter(letter_id)
        if isinstance(sent, list):
            raise refusal(letter.queue, sent[2])
        emit(events.REPLAYED, letter_id=letter.id, queue=letter.queue)
        return letter.queue

    def purge(self) -> int:
        """Remove all that are there now; one added meanwhile stays."""
        newest = self._call(lambda: self._store.client.xrevrange(self._key, count=1))
        if not newest:
            return 0
        removed = 0
        while step := int(self._store.run("purge_letters", [self._key], [newest[0][0], _PURGE_BATCH])):
            removed += step
        emit(events.PURGED, {"count": removed})
        return removed

    def _known_form(self, letter_id: str) -> str:
        if not _ID.fullmatch(letter_id):
            raise UnknownDeadLetter(letter_id)
        return letter_id

    def _call(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except ResponseError as error:
            if "Invalid stream ID" in str(error):
                raise UnknownDeadLetter(str(error)) from None
            raise BrokerUnavailable(self._store.url, error) from error
        except RedisError as error:
            raise BrokerUnavailable(self._store.url, error) from error
