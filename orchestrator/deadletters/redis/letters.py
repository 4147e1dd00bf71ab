"""Shared by the parts of the dead-letter log in Redis: the store, its clock, and one way to report its absence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from orchestrator.transport.store import Store

#: For how long the counters of an audit entry are kept.
PROGRESS_TTL_MS = 7 * 24 * 3600 * 1000


class RedisLetters:
    """Base of the classes that implement the protocols of :mod:`orchestrator.deadletters.store`.

    Every method raises :class:`BrokerUnavailable`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._k = store.keys
        self.max_message_bytes = store.options.max_message_bytes

    def now_ms(self) -> int:
        """The clock of Redis, in ms since 1970."""
        seconds, micros = self._call(lambda: self._store.client.time())
        return int(seconds) * 1000 + int(micros) // 1000

    def _add_progress(self, audit_id: str, field: str, count: int) -> None:
        key = self._k.letter_audit_progress(audit_id)

        def add() -> None:
            with self._store.client.pipeline() as pipe:
                pipe.hincrby(key, field, count)
                pipe.pexpire(key, PROGRESS_TTL_MS)
                pipe.execute()

        self._call(add)

    def _call(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            raise self._store.failure(error) from error


def decode_ids(raw: Sequence[bytes]) -> list[str]:
    """Letter ids from a script's reply."""
    return [letter_id.decode() for letter_id in raw]
