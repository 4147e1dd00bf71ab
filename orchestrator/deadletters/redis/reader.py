"""Reading dead letters from Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from orchestrator.core.log import get_logger
from orchestrator.core.stored_values import UNREADABLE, is_wrong_call, stored_text
from orchestrator.deadletters.letter import DIMENSIONS, FIELD_KIND, FIELD_QUEUE
from orchestrator.deadletters.redis.letters import RedisLetters, decode_ids
from orchestrator.deadletters.store import CANDIDATES_PER_STEP, Found, Row
from orchestrator.transport.redis import commands

logger = get_logger(__name__)

#: The fields in which all letters of a kind agree, in the order of ``dead_letters.lua``: the dimensions, and the queue.
_KIND_FIELDS = (*DIMENSIONS.values(), FIELD_QUEUE)

#: Kinds of letters that one step reads.
_KINDS_PER_STEP = 500


class RedisLetterReader(RedisLetters):
    """Implements :class:`~.store.LetterReader`."""

    def size(self) -> int:
        """Number of letters."""
        return int(self._call(lambda: self._store.client.xlen(self._k.dead_letters)))

    def size_of(self, indexed: Sequence[tuple[str, str]]) -> int:
        """Number of letters that have all of these values."""
        counts: dict[bytes, int] = {}
        cursor: Any = 0
        while True:
            cursor, *flat = self._store.run(
                *commands.count_letters(self._k, indexed, cursor=cursor, kinds=_KINDS_PER_STEP)
            )
            counts.update(zip(flat[::2], flat[1::2], strict=True))
            if not int(cursor):
                return sum(counts.values())

    def values(self, dimension: str, indexed: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """Values of a dimension, the most recent first."""
        client: Any = self._store.client
        places = list(DIMENSIONS)
        place = places.index(dimension)
        wanted = [(places.index(name), value) for name, value in indexed]
        found: set[str] = set()
        start = 0
        while kinds := self._call(partial(client.zrevrange, self._k.letter_kinds, start, start + _KINDS_PER_STEP - 1)):
            for raw in self._call(partial(client.hmget, self._k.letter_kind_names, kinds)):
                values = [stored_text(part) for part in _kind_values(raw)]
                if not values or any(values[at] != value for at, value in wanted):
                    continue
                if (value := values[place]) and value not in found:
                    found.add(value)
                    yield value
            start += len(kinds)

    def arrivals(self, group: str) -> Mapping[int, int]:
        """Hour since 1970 -> letters of the group that arrived in it."""
        counted = self._call(lambda: self._store.client.hgetall(self._k.letter_arrivals(group)))
        return {int(hour): int(count) for hour, count in counted.items()}

    def find(
        self,
        indexed: Sequence[tuple[str, str]],
        state: str,
        low: str,
        high: str,
        *,
        limit: int,
        oldest_first: bool,
    ) -> Found:
        """Do one step of a search."""
        call = commands.find_letters(
            self._k,
            indexed,
            oldest_first=oldest_first,
            low=low,
            high=high,
            limit=limit,
            examine=CANDIDATES_PER_STEP,
            state=state,
        )
        cursor, examined, *ids = self._store.run(*call)
        return Found(tuple(decode_ids(ids)), stored_text(cursor), examined)

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The rows of those ids that are in the log."""

        def read() -> list[Any]:
            with self._store.client.pipeline(transaction=False) as pipe:
                for letter_id in ids:
                    pipe.xrange(self._k.dead_letters, min=letter_id, max=letter_id)
                return pipe.execute()

        return self._complete_rows([entries[0] for entries in self._call(read) if entries]) if ids else []

    def newest(self, limit: int, below: str) -> list[Row]:
        """Rows, newest first."""
        return self._complete_rows(
            self._call(lambda: self._store.client.xrevrange(self._k.dead_letters, max=below, min="-", count=limit))
        )

    def _complete_rows(self, entries: Sequence[Any]) -> list[Row]:
        """Join entries of the log with those of the kinds' streams, the kinds' values, and the parking notes."""

        def read() -> list[Any]:
            with self._store.client.pipeline(transaction=False) as pipe:
                pipe.hmget(self._k.letter_notes, [entry for entry, _ in entries])
                pipe.hmget(self._k.letter_kind_names, kinds)
                for (entry, _), kind in zip(entries, kinds, strict=True):
                    pipe.xrange(self._k.letters_of(stored_text(kind)), min=entry, max=entry)
                return pipe.execute()

        if not entries:
            return []
        kinds = [fields.get(FIELD_KIND, b"") for _, fields in entries]
        notes, values, *others = self._call(read)
        rows: list[Row] = []
        for (entry, fields), note, raw, other in zip(entries, notes, values, others, strict=True):
            if raw is not None and other:
                fields |= dict(zip(_KIND_FIELDS, _kind_values(raw), strict=True)) | other[0][1]
            # It left the log between the two reads; otherwise its kind would have an entry of it.
            elif FIELD_KIND in fields:
                continue
            rows.append((stored_text(entry), fields, note or b""))
        return rows


def _kind_values(raw: bytes | None) -> list[bytes]:
    """The values in which letters of a kind agree, byte for byte; empty if the kind does not exist (any more)."""
    if not raw:
        return []
    try:
        texts: list[str] = json.loads(raw.decode("utf-8", "surrogateescape"))
        values = [text.encode("utf-8", "surrogateescape") for text in texts]
    except UNREADABLE as error:
        if is_wrong_call(error):
            raise
        values = []
    if len(values) != len(_KIND_FIELDS):
        logger.error("letters:kind-names: %r is no list of the values of a kind; its letters are listed without", raw)
        return [b""] * len(_KIND_FIELDS)
    return values
