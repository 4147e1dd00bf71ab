"""The dead-letter log in Redis. The transport writes it, in the step that ends the delivery."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, CircuitOpen, MailboxFull
from orchestrator.deadletters.letter import DIMENSIONS
from orchestrator.deadletters.store import (
    LOOK,
    AuditEntry,
    Found,
    ReplayBatch,
    ReplayedLetter,
    ReplayProgress,
    ReplayResult,
    Row,
)
from orchestrator.transport.admission.flow_control import refusal
from orchestrator.transport.store import Store

#: Acts remembered.
_ACTS = 10_000

#: What ``import_letters.lua`` takes of a letter.
_FIELDS = (b"m", b"letter", b"d", b"q", b"a", b"n", b"e", b"y", b"g", b"r", b"s", b"o")

#: What letters of a kind agree in, in the order of ``dead_letters.lua``: the dimensions, and the queue.
_OF_KIND = (*DIMENSIONS.values(), b"q")

#: Kinds of letters that are looked at in one step.
_KINDS = 500

#: Letters that one step sends again by their ids. Each may be the last of its kind, which goes with it.
_AT_ONCE = 100

#: Bytes of the letters that one step takes in, unless a single one has more.
_MOST_BYTES = 1024 * 1024

_WEEK_MS = 7 * 24 * 3600 * 1000


class RedisDeadLetterStore:
    """Every method raises :class:`BrokerUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._k = store.keys
        self._key = store.keys.dead_letters
        self.max_message_bytes = store.options.max_message_bytes

    def now_ms(self) -> int:
        """Redis' clock."""
        seconds, micros = self._call(lambda: self._store.client.time())
        return int(seconds) * 1000 + int(micros) // 1000

    def size(self) -> int:
        """How many letters there are."""
        return int(self._call(lambda: self._store.client.xlen(self._key)))

    def size_of(self, indexed: Sequence[tuple[str, str]]) -> int:
        """How many there are with those values."""
        pairs = [part for pair in indexed for part in pair]
        counts: dict[bytes, int] = {}
        cursor: Any = 0
        while True:
            cursor, *flat = self._store.run("count_letters", [], [self._k.root, cursor, _KINDS, *pairs])
            counts.update(zip(flat[::2], flat[1::2], strict=True))
            if not int(cursor):
                return sum(counts.values())

    def values(self, dimension: str, indexed: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """Values there are letters of, the last to have come first."""
        client: Any = self._store.client
        places = list(DIMENSIONS)
        place = places.index(dimension)
        wanted = [(places.index(name), value) for name, value in indexed]
        found: set[str] = set()
        start = 0
        while kinds := self._call(partial(client.zrevrange, self._k.letter_kinds, start, start + _KINDS - 1)):
            for raw in self._call(partial(client.hmget, self._k.letter_kind_names, kinds)):
                values = [part.decode("utf-8", "replace") for part in _values(raw)]
                if not values or any(values[at] != value for at, value in wanted):
                    continue
                if (value := values[place]) and value not in found:
                    found.add(value)
                    yield value
            start += len(kinds)

    def arrivals(self, group: str) -> Mapping[int, int]:
        """By hour."""
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
        """One step of a search."""
        pairs = [part for pair in indexed for part in pair]
        args = [self._k.root, "1" if oldest_first else "0", low, high, limit, LOOK, state, *pairs]
        cursor, looked_at, *ids = self._store.run("find_letters", [], args)
        return Found(tuple(letter_id.decode() for letter_id in ids), cursor.decode(), looked_at)

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """Those that are there."""

        def read() -> list[Any]:
            with self._store.client.pipeline(transaction=False) as pipe:
                for letter_id in ids:
                    pipe.xrange(self._key, min=letter_id, max=letter_id)
                return pipe.execute()

        return self._noted([entries[0] for entries in self._call(read) if entries]) if ids else []

    def newest(self, limit: int, below: str) -> list[Row]:
        """Newest first."""
        return self._noted(self._call(lambda: self._store.client.xrevrange(self._key, max=below, min="-", count=limit)))

    def _noted(self, entries: Sequence[Any]) -> list[Row]:
        """Letters from what the log has of them: with what their kinds' streams have, their kinds' values and notes."""

        def read() -> list[Any]:
            with self._store.client.pipeline(transaction=False) as pipe:
                pipe.hmget(self._k.letter_notes, [entry for entry, _ in entries])
                pipe.hmget(self._k.letter_kind_names, kinds)
                for (entry, _), kind in zip(entries, kinds, strict=True):
                    pipe.xrange(self._k.letters_of(kind.decode()), min=entry, max=entry)
                return pipe.execute()

        if not entries:
            return []
        kinds = [fields.get(b"k", b"") for _, fields in entries]
        notes, values, *others = self._call(read)
        rows: list[Row] = []
        for (entry, fields), note, raw, other in zip(entries, notes, values, others, strict=True):
            if raw is not None and other:
                fields |= dict(zip(_OF_KIND, _values(raw), strict=True)) | other[0][1]
            # It has left the log meanwhile; else it would have been there.
            elif b"k" in fields:
                continue
            rows.append((entry.decode(), fields, note or b""))
        return rows

    def begin(self, kind: str, who: str, why: str, detail: Mapping[str, Any]) -> str:
        """One round trip."""

        def write() -> str:
            fields: Any = {"kind": kind, "who": who, "why": why, "detail": json.dumps(dict(detail))}
            added: Any = self._store.client.xadd(self._k.letter_acts, fields, maxlen=_ACTS, approximate=True)
            act: str = added.decode()
            with self._store.client.pipeline(transaction=False) as pipe:
                pipe.hset(self._k.letter_act(act), "done", "0")
                pipe.pexpire(self._k.letter_act(act), _WEEK_MS)
                pipe.execute()
            return act

        return str(self._call(write))

    def acts(self, limit: int) -> list[AuditEntry]:
        """Newest first."""

        def read() -> list[AuditEntry]:
            entries: Any = self._store.client.xrevrange(self._k.letter_acts, count=limit)
            with self._store.client.pipeline(transaction=False) as pipe:
                for entry, _ in entries:
                    pipe.hmget(self._k.letter_act(entry.decode()), "done", "dead")
                progress = pipe.execute()
            return [_act(entry.decode(), fields, *p) for (entry, fields), p in zip(entries, progress, strict=True)]

        acts: list[AuditEntry] = self._call(read)
        return acts

    def withdraw(self, act: str) -> None:
        """Forget an act."""

        def forget() -> None:
            with self._store.client.pipeline() as pipe:
                pipe.xdel(self._k.letter_acts, act)
                pipe.delete(self._k.letter_act(act))
                pipe.execute()

        self._call(forget)

    def progress(self, act: str, field: str, count: int) -> None:
        """One round trip."""

        def add() -> None:
            with self._store.client.pipeline() as pipe:
                pipe.hincrby(self._k.letter_act(act), field, count)
                pipe.pexpire(self._k.letter_act(act), _WEEK_MS)
                pipe.execute()

        self._call(add)

    def deaths_of(self, act: str) -> int:
        """How many are letters anew."""
        return int(self._call(lambda: self._store.client.hget(self._k.letter_act(act), "dead")) or 0)

    def replay(self, ids: Sequence[str], act: str, *, auto: bool, watched: bool, instead: bytes = b"") -> ReplayResult:
        """Out of the log and into the mailboxes, each in one step."""
        flags = ["1" if auto else "0", "1" if watched else ""]
        answers: list[Any] = []
        left: Sequence[str] = ids
        while left:
            args = [self._k.root, self._store.steps[1], act, *flags, instead, *left[:_AT_ONCE]]
            not_yet, *said = self._store.run("replay", [], args)
            left = [*not_yet.decode().split(), *left[_AT_ONCE:]]
            answers.append(said)
        return _resent(answers, len(ids))

    def resend_found(
        self,
        indexed: Sequence[tuple[str, str]],
        state: str,
        low: str,
        high: str,
        act: str,
        *,
        limit: int,
        watched: bool,
    ) -> ReplayResult | None:
        """Each found and sent again in the same step."""
        pairs = [part for pair in indexed for part in pair]
        how = [self._k.root, self._store.steps[1], act, "1" if watched else ""]
        answers: list[Any] = []
        came_to = 0
        while low and came_to < limit:
            args = [*how, low, high, limit - came_to, LOOK, state, *pairs]
            if not (answer := self._store.run("replay_found", [], args)):
                return _resent(answers, came_to, low) if came_to else None
            cursor, count, *said = answer
            answers.append(said)
            came_to += int(count)
            low = f"({cursor.decode()}" if cursor else ""
        return _resent(answers, came_to, low)

    def settled(self, sent: Sequence[ReplayedLetter]) -> ReplayProgress:
        """By their recorded outcomes; a plain Celery message has come to an end when it has left its mailbox."""

        def read() -> list[Any]:
            with self._store.client.pipeline(transaction=False) as pipe:
                for one in sent:
                    if one.delivery_id:
                        pipe.lindex(self._k.outcome(one.delivery_id), -1)
                    else:
                        pipe.xrange(self._k.step(one.queue, self._store.steps[1]), min=one.entry, max=one.entry)
                return pipe.execute()

        said = self._call(read)
        ended = silent = 0
        for one, answer in zip(sent, said, strict=True):
            ended += bool(answer) is bool(one.delivery_id)
            if one.delivery_id and answer:
                outcome = json.loads(answer)
                silent += outcome.get("outcome") == "dead" and not outcome.get("letter_id")
        return ReplayProgress(ended, silent)

    def park(self, ids: Sequence[str], act: str, note: str) -> list[str]:
        """Put letters aside."""
        return self._in_parts("park_letters", [act, note], ids)

    def unpark(self, ids: Sequence[str], act: str) -> list[str]:
        """Make letters open."""
        return _ids(self._store.run("unpark_letters", [], [self._k.root, act, *ids]))

    def remove(self, ids: Sequence[str], act: str) -> list[str]:
        """Remove letters."""
        return self._in_parts("purge_letters", [act], ids)

    def _in_parts(self, script: str, how: Sequence[str], ids: Sequence[str]) -> list[str]:
        """Run a script that says how many of the ids it came to, until it came to all; returns those it reached."""
        reached: list[str] = []
        left = ids
        while left:
            came_to, *some = self._store.run(script, [], [self._k.root, *how, *left])
            reached += _ids(some)
            left = left[int(came_to) :]
        return reached

    def take_in(self, rows: Sequence[Row], act: str) -> list[str]:
        """Add letters of another log."""
        added: list[str] = []
        flat: list[Any] = []
        size = 0
        for number, (_, fields, note) in enumerate(rows, 1):
            values = [*(fields.get(name, b"") for name in _FIELDS), note]
            flat += values
            size += sum(map(len, values))
            if size >= _MOST_BYTES or number == len(rows):
                added += _ids(self._store.run("import_letters", [], [self._k.root, act, *flat]))
                flat, size = [], 0
        return added

    def plan(self, most: int, first_ms: int, reasons: Sequence[str], look: int) -> tuple[int, list[str]]:
        """Plan automatic retries."""
        looked_at, *park = self._store.run("schedule_letters", [], [self._k.root, look, most, first_ms, *reasons])
        return int(looked_at), [letter_id.decode() for letter_id in park]

    def due(self, limit: int) -> list[str]:
        """Letters whose automatic retry is due."""
        now, key = self.now_ms(), self._k.letters_due
        found = self._call(lambda: self._store.client.zrangebyscore(key, "-inf", now, start=0, num=limit))
        return [letter_id.decode() for letter_id in found]

    def put_off(self, ids: Sequence[str], pause_ms: int) -> None:
        """Have planned retries be due later."""
        if ids:
            due_ms = self.now_ms() + pause_ms
            self._call(lambda: self._store.client.zadd(self._k.letters_due, dict.fromkeys(ids, due_ms), xx=True))

    def unplan(self, ids: Sequence[str]) -> None:
        """Forget planned retries."""
        if ids:
            self._call(lambda: self._store.client.zrem(self._k.letters_due, *ids))

    def mark(self, value: str | None = None) -> str:
        """How far expiry came."""
        if value is not None:
            self._call(lambda: self._store.client.set(self._k.letters_expired, value))
            return value
        raw = self._call(lambda: self._store.client.get(self._k.letters_expired))
        return raw.decode() if raw else ""

    def _call(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            raise BrokerUnavailable(self._store.url, error) from error


def _ids(raw: Sequence[bytes]) -> list[str]:
    return [letter_id.decode() for letter_id in raw]


def _values(raw: bytes | None) -> list[bytes]:
    """What letters of a kind agree in, byte for byte; empty if there is no such kind (any more)."""
    texts: list[str] = json.loads(raw.decode("utf-8", "surrogateescape")) if raw else []
    return [text.encode("utf-8", "surrogateescape") for text in texts]


def _resent(answers: Sequence[Sequence[Any]], came_to: int, low: str = "") -> ReplayResult:
    """What the scripts say of letters that were to be sent again; see ``replay.lua``."""
    batches: list[ReplayBatch] = []
    kept: list[str] = []
    why: MailboxFull | CircuitOpen | None = None
    for refused, *sent in answers:
        for queue, said, ids in refused or ():
            why = why or refusal(queue.decode(), said)
            kept += ids.decode().split()
        for at in range(0, len(sent), 4):
            queue, ids, entries, deliveries = sent[at : at + 4]
            told = [delivery.decode() for delivery in deliveries] if deliveries else ()
            batches.append(ReplayBatch(queue.decode(), ids.decode().split(), entries.decode().split(), told))
    return ReplayResult(tuple(batches), tuple(kept), why, came_to, low)


def _act(act: str, fields: Mapping[bytes, bytes], done: bytes | None, dead: bytes | None) -> AuditEntry:
    text = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
    return AuditEntry(
        id=act,
        kind=text.get("kind", ""),
        who=text.get("who", ""),
        why=text.get("why", ""),
        at_ms=int(act.split("-")[0]),
        detail=json.loads(text.get("detail") or "{}"),
        done=None if done is None else int(done),
        # Written with the first of them.
        dead=None if done is None else int(dead or 0),
    )
