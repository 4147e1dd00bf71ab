"""Reads schedules from Redis, those that cannot be read included."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from orchestrator.core.errors import UnknownSchedule
from orchestrator.core.keys import Keys
from orchestrator.schedules.redis.scripts import MOST_AT_ONCE
from orchestrator.schedules.redis.stored import StoredSchedule
from orchestrator.transport.store import Store

#: Schedules that one command lists.
_PAGE: Final = 500

#: With at most this many schedules, an error about an unknown one names the nearest.
_NAMED: Final = 10_000


class ScheduleReader:
    """Reads the schedules of one Redis."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._open_store = store

    @property
    def store(self) -> Store:
        """The Redis that the schedules are in."""
        return self._open_store()

    def now_ms(self) -> int:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        seconds, micros = self.ask(lambda client: client.time())
        return int(seconds) * 1000 + int(micros) // 1000

    def ask(self, command: Callable[[Any], Any]) -> Any:
        """Run commands of redis-py's client.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self.store
        try:
            return command(store.client)
        except RedisError as error:
            raise store.failure(error) from error

    def read(self, ids: Sequence[str]) -> list[StoredSchedule | None]:
        """Schedules by their ids, in that order; ``None`` for one that does not exist.

        One that is broken and whose definition is gone has an empty text.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        found: list[StoredSchedule | None] = []
        for at in range(0, len(ids), MOST_AT_ONCE):
            some = ids[at : at + MOST_AT_ONCE]
            texts, whys, *rest = self.ask(partial(_read, self.store.keys, some))
            if isinstance(texts, RedisError):
                raise self.store.failure(texts) from texts
            if isinstance(whys, RedisError):
                whys = [None] * len(some)
            for number, one in enumerate(some):
                is_none = texts[number] is None and whys[number] is None
                state = rest[3 * number : 3 * number + 3]
                found.append(None if is_none else _stored(one, texts[number] or b"", whys[number], *state))
        return found

    def leftovers(self) -> list[StoredSchedule]:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        keys = self.store.keys
        whys = self.ask(partial(_hash, keys.schedules_broken))
        left: list[StoredSchedule] = []
        names = list(whys)
        for at in range(0, len(names), _PAGE):
            some = names[at : at + _PAGE]
            texts = self.ask(partial(_hmget, keys.schedules, some))
            left += [
                StoredSchedule(name.decode("utf-8", "backslashreplace"), "", broken=_why(whys[name]))
                for name, text in zip(some, texts, strict=True)
                if text is None
            ]
        return left

    def ids(self) -> Iterator[str]:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        cursor = 0
        while True:
            cursor, page = self.page(cursor)
            yield from page
            if not cursor:
                return

    def page(self, cursor: int) -> tuple[int, list[str]]:
        """Some ids, and the cursor of the next page; 0 if there is none."""
        after, page = self.ask(partial(_scan, self.store.keys.schedules, cursor))
        return int(after), [name.decode("utf-8", "replace") for name in _names(page)]

    def count(self) -> int:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        return int(self.ask(lambda client: client.hlen(self.store.keys.schedules)))

    def of_owner(self, owner: str) -> list[str]:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        found = self.ask(lambda client: client.smembers(self.store.keys.schedules_of(owner)))
        return sorted(name.decode("utf-8", "replace") for name in found)

    def existing(self, schedule_id: str) -> StoredSchedule:
        """See :class:`orchestrator.schedules.backend.SchedulesBackend`."""
        (stored,) = self.read([schedule_id])
        if stored is None:
            known = self.ask(lambda client: client.hkeys(self.store.keys.schedules)) if self._is_small() else []
            raise UnknownSchedule(schedule_id, [name.decode("utf-8", "replace") for name in known])
        return stored

    def _is_small(self) -> bool:
        return self.count() <= _NAMED


def _read(keys: Keys, ids: Sequence[str], client: Any) -> Any:
    with client.pipeline(transaction=False) as pipe:
        pipe.hmget(keys.schedules, ids)
        pipe.hmget(keys.schedules_broken, ids)
        for one in ids:
            pipe.hgetall(keys.schedule(one))
            pipe.zscore(keys.schedules_due, one)
            pipe.zscore(keys.schedules_bound, one)
        # One key of another type must not hide the other schedules.
        return pipe.execute(raise_on_error=False)


def _hmget(key: str, names: Sequence[bytes], client: Any) -> Any:
    return client.hmget(key, names)


def _hash(key: str, client: Any) -> Any:
    try:
        return client.hgetall(key)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        # The next one that is set aside finds it.
        return {}


def _stored(schedule_id: str, text: bytes, why: bytes | None, fields: Any, due: Any, bound_due: Any) -> StoredSchedule:
    fault = f"its state: {fields}" if isinstance(fields, RedisError) else ""
    due = due if isinstance(due, float) else bound_due
    if isinstance(due, float) and not math.isfinite(due):
        due, fault = None, fault or f"it is due at {due}, which is no time"
    return StoredSchedule(
        schedule_id,
        text.decode("utf-8", "replace"),
        {} if isinstance(fields, RedisError) else _fields(fields),
        int(due) if isinstance(due, float) else None,
        "" if why is None else _why(why),
        fault,
    )


def _fields(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in raw.items()}


def _why(text: bytes) -> str:
    try:
        return str(json.loads(text)["why"])
    except (ValueError, KeyError, TypeError):
        return text.decode("utf-8", "replace")


def _scan(key: str, cursor: int, client: Any) -> Any:
    return client.execute_command("HSCAN", key, cursor, "COUNT", _PAGE)


def _names(page: Any) -> Iterable[bytes]:
    return page.keys() if isinstance(page, dict) else page[::2]
