"""The dead-letter log of eager mode: the same letters, kept in this process, gone with it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import CircuitOpen, MailboxFull
from orchestrator.core.fingerprint import fingerprint
from orchestrator.deadletters.letter import DIMENSIONS, delivery_of, envelope_of, supervision_in
from orchestrator.deadletters.store import (
    AuditEntry,
    Found,
    ReplayBatch,
    ReplayedLetter,
    ReplayProgress,
    ReplayResult,
    Row,
)
from orchestrator.transport.mailbox_entry import LINEAGE, renewed

_HOUR_MS = 3_600_000


def _order(letter_id: str) -> tuple[int, int]:
    ms, _, seq = letter_id.partition("-")
    return int(ms), int(seq or 0)


class InMemoryDeadLetterStore:
    """Implements :class:`~orchestrator.deadletters.store.DeadLetterStore`.

    ``send_again`` runs a message inline, unless flow control refuses it, and says whether it died without becoming a
    letter; ``now_ms`` is the clock.
    """

    def __init__(
        self,
        send_again: Callable[[str, bytes], bool],
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self.max_message_bytes = 0
        self._send_again = send_again
        self._clock = now_ms
        self._rows: dict[str, dict[bytes, bytes]] = {}
        self._notes: dict[str, bytes] = {}
        self._due: dict[str, int] = {}
        self._origins: dict[str, str] = {}
        self._arrivals: dict[str, Counter[int]] = {}
        self._acts: dict[str, AuditEntry] = {}
        self._numbers = itertools.count()
        #: Letters whose watched replay died without a letter, until they are asked about.
        self._silent: set[str] = set()
        self._progress: dict[str, Counter[str]] = {}
        self._last = (0, 0)
        self._planned = (0, 0)
        self._mark = ""
        self._lock = threading.RLock()

    def add(self, raw: bytes, letter: Mapping[str, Any]) -> str:
        """Keep a message; returns the letter's id."""
        headers = envelope_of(raw).get("headers")
        headers = headers if isinstance(headers, dict) else {}
        supervision = supervision_in(headers)
        name = supervision.message or str(headers.get("task", ""))
        error = str((letter.get("error") or {}).get("type", ""))
        failures = letter.get("failures") or [{}]
        stack = str(failures[-1].get("traceback", ""))
        lineage = headers.get(LINEAGE)
        lineage = lineage if isinstance(lineage, dict) else {}
        row = {
            b"m": raw,
            b"letter": json.dumps(dict(letter)).encode(),
            b"d": b"",
            b"q": str(letter.get("queue", "")).encode(),
            b"a": supervision.agent.encode(),
            b"n": name.encode(),
            b"e": error.encode(),
            b"y": str(letter.get("reason", "")).encode(),
            b"g": fingerprint(error, stack, f"{supervision.agent}.{name}").encode(),
            b"r": json.dumps(lineage).encode() if lineage else b"",
            b"s": str(letter.get("at", 0)).encode(),
        }
        with self._lock:
            if lineage and lineage.get("act") in self._progress:
                self._progress[lineage["act"]]["dead"] += 1
            return self._add(row)

    def _add(self, row: dict[bytes, bytes]) -> str:
        now = max(self._clock(), self._last[0])
        self._last = (now, self._last[1] + 1 if now == self._last[0] else 0)
        letter_id = f"{self._last[0]}-{self._last[1]}"
        self._rows[letter_id] = row
        self._arrivals.setdefault(row[b"g"].decode(), Counter())[now // _HOUR_MS] += 1
        return letter_id

    def now_ms(self) -> int:
        """The clock that ids are made by."""
        return self._clock()

    def size(self) -> int:
        """How many letters there are."""
        return len(self._rows)

    def size_of(self, indexed: Sequence[tuple[str, str]]) -> int:
        """How many there are with those values."""
        with self._lock:
            return sum(all(self._has(row, *pair) for pair in indexed) for row in self._rows.values())

    def values(self, dimension: str, indexed: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
        """Values there are letters of, the last to have come first."""
        with self._lock:
            rows = [row for row in reversed(self._rows.values()) if all(self._has(row, *pair) for pair in indexed)]
        found = dict.fromkeys(row[DIMENSIONS[dimension]].decode() for row in rows)
        return (value for value in found if value)

    def arrivals(self, group: str) -> Mapping[int, int]:
        """By hour."""
        return dict(self._arrivals.get(group, {}))

    def _has(self, row: Mapping[bytes, bytes], dimension: str, value: str) -> bool:
        return row.get(DIMENSIONS[dimension], b"") == value.encode("utf-8", "surrogatepass")

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
        """All in one step."""
        with self._lock:
            ids = [
                letter_id
                for letter_id, row in self._rows.items()
                if _within(letter_id, low, high)
                and all(self._has(row, *pair) for pair in indexed)
                and (state == "all" or (state == "parked") is (letter_id in self._notes))
            ]
        if not oldest_first:
            ids.reverse()
        return Found(tuple(ids[:limit]), ids[limit - 1] if len(ids) > limit else "", len(ids))

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """Those that are there."""
        with self._lock:
            return [(i, self._rows[i], self._notes.get(i, b"")) for i in ids if i in self._rows]

    def newest(self, limit: int, below: str) -> list[Row]:
        """Newest first."""
        with self._lock:
            return self.rows([i for i in reversed(self._rows) if _within(i, "-", below)][:limit])

    def begin(self, kind: str, who: str, why: str, detail: Mapping[str, Any]) -> str:
        """Record that an act begins."""
        with self._lock:
            act = AuditEntry(f"{self._clock()}-{next(self._numbers)}", kind, who, why, self._clock(), dict(detail))
            self._acts[act.id] = act
            self._progress[act.id] = Counter()
            return act.id

    def acts(self, limit: int) -> list[AuditEntry]:
        """Newest first."""
        with self._lock:
            return [
                AuditEntry(
                    a.id, a.kind, a.who, a.why, a.at_ms, a.detail, self._progress[a.id]["done"], self.deaths_of(a.id)
                )
                for a in list(reversed(self._acts.values()))[:limit]
            ]

    def withdraw(self, act: str) -> None:
        """Forget an act."""
        with self._lock:
            self._acts.pop(act, None)
            self._progress.pop(act, None)

    def progress(self, act: str, field: str, count: int) -> None:
        """Add to it."""
        with self._lock:
            self._progress[act][field] += count

    def deaths_of(self, act: str) -> int:
        """How many are letters anew."""
        return self._progress[act]["dead"]

    def replay(self, ids: Sequence[str], act: str, *, auto: bool, watched: bool, instead: bytes = b"") -> ReplayResult:
        """Send letters again, at once and inline."""
        sent, kept = [], []
        why: MailboxFull | CircuitOpen | None = None
        for letter_id in ids:
            with self._lock:
                row = self._rows.get(letter_id)
                queue = row[b"q"].decode() if row else ""
                if row is None or not queue:
                    continue
                put_back = self._forget(letter_id)
            try:
                silent = self._send_again(queue, _again(instead or row[b"m"], _lineage(letter_id, row, act, auto)))
            except (MailboxFull, CircuitOpen) as error:
                put_back()
                why = why or error
                kept.append(letter_id)
                continue
            except BaseException:
                put_back()
                raise
            with self._lock:
                self._progress[act]["done"] += 1
                if silent and watched:
                    self._silent.add(letter_id)
            sent.append(ReplayBatch(queue, (letter_id,), (), (delivery_of(row[b"m"]),)))
        return ReplayResult(tuple(sent), tuple(kept), why, len(ids))

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
    ) -> ReplayResult:
        """Found, then sent again."""
        found = self.find(indexed, state, low, high, limit=limit, oldest_first=True)
        low = f"({found.cursor}" if found.cursor else ""
        return replace(self.replay(found.ids, act, auto=False, watched=watched), low=low)

    def settled(self, sent: Sequence[ReplayedLetter]) -> ReplayProgress:
        """Nothing is ever pending."""
        with self._lock:
            silent = self._silent & {one.letter_id for one in sent}
            self._silent -= silent
        return ReplayProgress(len(sent), len(silent))

    def park(self, ids: Sequence[str], act: str, note: str) -> list[str]:
        """Put letters aside."""
        with self._lock:
            here = [i for i in ids if i in self._rows]
            opened = [i for i in here if i not in self._notes]
            for letter_id in here:
                self._notes[letter_id] = note.encode()
                self._due.pop(letter_id, None)
            self._progress[act]["done"] += len(opened)
            return opened

    def unpark(self, ids: Sequence[str], act: str) -> list[str]:
        """Make letters open."""
        with self._lock:
            parked = [i for i in ids if self._notes.pop(i, None) is not None]
            self._progress[act]["done"] += len(parked)
            return parked

    def remove(self, ids: Sequence[str], act: str) -> list[str]:
        """Remove letters."""
        with self._lock:
            here = [i for i in ids if i in self._rows]
            for letter_id in here:
                self._forget(letter_id)
            self._progress[act]["done"] += len(here)
            return here

    def _forget(self, letter_id: str) -> Callable[[], None]:
        """Take a letter out of everything; returns what puts it back as if nothing had been."""
        row = self._rows.pop(letter_id)
        origin, group = row.get(b"o", b"").decode(), row[b"g"].decode()
        held: list[tuple[dict[str, Any], str, Any]] = [
            (there, name, there.pop(name))
            for there, name in ((self._notes, letter_id), (self._due, letter_id), (self._origins, origin))
            if name in there
        ]
        arrivals = self._arrivals.get(group)
        if not self.size_of([("group", group)]):
            self._arrivals.pop(group, None)

        def put_back() -> None:
            with self._lock:
                self._rows[letter_id] = row
                self._rows = dict(sorted(self._rows.items(), key=lambda item: _order(item[0])))
                for there, name, value in held:
                    there[name] = value
                if arrivals is not None:
                    self._arrivals.setdefault(group, arrivals)

        return put_back

    def take_in(self, rows: Sequence[Row], act: str) -> list[str]:
        """Add letters of another log."""
        added = []
        with self._lock:
            for _, fields, note in rows:
                origin = fields[b"o"].decode()
                if origin in self._origins or origin in self._rows:
                    continue
                letter_id = self._origins[origin] = self._add(dict(fields))
                if note:
                    self._notes[letter_id] = note
                added.append(letter_id)
            self._progress[act]["done"] += len(added)
        return added

    def plan(self, most: int, first_ms: int, reasons: Sequence[str], look: int) -> tuple[int, list[str]]:
        """Plan automatic retries."""
        park = []
        with self._lock:
            new = [i for i in self._rows if _order(i) > self._planned][:look]
            for letter_id in new:
                self._planned = _order(letter_id)
                row = self._rows[letter_id]
                if row[b"y"].decode() not in reasons or letter_id in self._notes:
                    continue
                auto = int(json.loads(row[b"r"] or b"{}").get("auto", 0))
                if auto >= most:
                    park.append(letter_id)
                else:
                    self._due[letter_id] = _order(letter_id)[0] + first_ms * 2**auto
        return len(new), park

    def due(self, limit: int) -> list[str]:
        """Letters whose automatic retry is due."""
        now = self._clock()
        with self._lock:
            return [i for i, at in sorted(self._due.items(), key=lambda item: item[1]) if at <= now][:limit]

    def put_off(self, ids: Sequence[str], pause_ms: int) -> None:
        """Have planned retries be due later."""
        due_ms = self._clock() + pause_ms
        with self._lock:
            self._due.update((letter_id, due_ms) for letter_id in ids if letter_id in self._due)

    def unplan(self, ids: Sequence[str]) -> None:
        """Forget planned retries."""
        with self._lock:
            for letter_id in ids:
                self._due.pop(letter_id, None)

    def mark(self, value: str | None = None) -> str:
        """How far expiry came."""
        if value is not None:
            self._mark = value
        return self._mark


def _within(letter_id: str, low: str, high: str) -> bool:
    place = _order(letter_id)
    if low != "-":
        bound = _order(low.lstrip("("))
        if place < bound or (low[0] == "(" and place == bound):
            return False
    if high == "+":
        return True
    bare = high.lstrip("(")
    bound = _order(bare) if "-" in bare else (int(bare), 1 << 62)
    return place < bound or (high[0] != "(" and place == bound)


def _lineage(letter_id: str, row: Mapping[bytes, bytes], act: str, auto: bool) -> dict[str, Any]:
    past = json.loads(row.get(b"r") or b"{}")
    return {
        "of": letter_id,
        "first": past.get("first") or letter_id,
        "replays": int(past.get("replays", 0)) + 1,
        "auto": int(past.get("auto", 0)) + auto,
        "act": act,
    }


def _again(raw: bytes, lineage: Mapping[str, Any]) -> bytes:
    envelope = envelope_of(raw)
    headers = envelope.get("headers")
    if not isinstance(headers, dict):
        return raw
    envelope["headers"] = renewed(headers, lineage)
    return json.dumps(envelope).encode()
