"""The dead-letter log: what can be asked of it, and what can be done with letters."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.errors import (
    CallerError,
    InvalidExport,
    InvalidMessage,
    InvalidPolicy,
    MessageTooLarge,
    UnknownDeadLetter,
)
from orchestrator.core.outcome import Reason
from orchestrator.deadletters.criteria import Criteria, check_limit
from orchestrator.deadletters.edit import Arguments, Edit, NoSignatures, Validate, edited
from orchestrator.deadletters.export import read_line
from orchestrator.deadletters.letter import DeadLetter, read_letter
from orchestrator.deadletters.replay import tell
from orchestrator.deadletters.selection import Selection
from orchestrator.deadletters.store import BATCH, AuditEntry, DeadLetterStore, Row
from orchestrator.telemetry import emit, events

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

#: Letters among which that of a delivery is looked for; no index knows them by it.
_LOOKED_AT = 10_000

#: Beyond this, Redis knows no id.
_LARGEST = 2**64


def operator() -> str:
    """Who acts, if nobody says: the user of this process."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return f"somebody@{socket.gethostname()}"


#: Letters that are such because their message fits nothing.
_MISFITS = (Reason.MALFORMED, Reason.VALIDATION, Reason.UNKNOWN_TASK, Reason.UNKNOWN_MESSAGE)


class DeadLetters:
    """Every method that acts takes ``who`` (this process' user by default) and ``why``, and records the act.

    In Redis, every method raises :class:`~orchestrator.core.errors.BrokerUnavailable` when it is away.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        hidden: tuple[str, ...] = (),
        validate: Validate | None = None,
        arguments: Arguments | None = None,
    ) -> None:
        self.store = store
        self.hidden = hidden
        self._validate = validate
        self._arguments = arguments or NoSignatures()

    # -- asking

    def list(self, limit: int = 50, *, before: str | None = None) -> list[DeadLetter]:
        """All letters, parked ones too, newest first; ``before`` an id for the next page.

        Raises:
            UnknownDeadLetter: ``before`` is no letter's id.
            InvalidPolicy: ``limit`` is no number of letters.
        """
        check_limit(limit)
        if before is not None:
            self._known_form(before)
        # Redis takes no 0 for a count.
        return [read_letter(*row) for row in self.store.newest(limit, f"({before}" if before else "+")] if limit else []

    def count(self) -> int:
        """How many there are, parked ones included."""
        return self.store.size()

    def get(self, letter_id: str) -> DeadLetter:
        """One letter.

        Raises:
            UnknownDeadLetter: it is not there.
        """
        rows = self.store.rows([self._known_form(letter_id)])
        if not rows:
            raise UnknownDeadLetter(letter_id)
        return read_letter(*rows[0])

    def of_delivery(self, delivery_id: str) -> DeadLetter | None:
        """The newest letter of a delivery, looked for among the newest 10,000; ``None`` if none of them is."""
        before: str | None = None
        for _ in range(_LOOKED_AT // BATCH):
            letters = self.list(BATCH, before=before)
            for letter in letters:
                if letter.delivery_id == delivery_id:
                    return letter
            if len(letters) < BATCH:
                break
            before = letters[-1].id
        return None

    def query(
        self,
        *,
        agent: str | None = None,
        message: str | None = None,
        error: str | None = None,
        reason: str | None = None,
        group: str | None = None,
        older_than_s: float | None = None,
        newer_than_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        text: str | None = None,
        state: str = "open",
    ) -> Selection:
        """The letters for which all that is given holds; see :class:`~.criteria.Criteria`. Asks nothing yet.

        Raises:
            InvalidPolicy: a value makes no sense.
        """
        criteria = Criteria(agent, message, error, reason, group, older_than_s, newer_than_s, metadata, text, state)
        return Selection(self, criteria)

    def acts(self, limit: int = 50) -> Sequence[AuditEntry]:
        """What was done with letters, newest first.

        Raises:
            InvalidPolicy: ``limit`` is no number of acts.
        """
        check_limit(limit)
        return self.store.acts(limit) if limit else []

    # -- acting

    def begin(self, kind: str, who: str | None, why: str, **detail: Any) -> str:
        """Record an act; returns its id."""
        return self.store.begin(kind, who or operator(), why, detail)

    def retry(self, letter_id: str, *, who: str | None = None, why: str = "") -> str:
        """Send it again, once, however many ask at the same time; returns the queue.

        Raises:
            UnknownDeadLetter: it is not there (any more).
            CallerError: it names no mailbox to send it to.
            MailboxFull, CircuitOpen: its mailbox takes none now; it stays a letter.
        """
        letter = self.get(letter_id)
        return self._replay(letter, self.begin("retry", who, why, id=letter.id))

    def _replay(self, letter: DeadLetter, act: str, instead: bytes = b"") -> str:
        if not letter.queue:
            raise CallerError(f"dead letter {letter.id!r} names no mailbox that it could be sent to")
        replayed = self.store.replay([letter.id], act, auto=False, watched=False, instead=instead)
        if replayed.refusal is not None:
            raise replayed.refusal
        if not replayed.batches:
            raise UnknownDeadLetter(letter.id)
        tell(replayed)
        return replayed.batches[0].queue

    def edit(self, letter_id: str, changes: Mapping[str, Any]) -> Edit:
        """What the letter's message would be with some of its fields changed; nothing is done yet.

        ``changes`` goes over the message's fields, or over a plain task's arguments, by the names of its parameters.

        Raises:
            UnknownDeadLetter: it is not there.
            InvalidMessage: the message would not fit its model, or the task's signature.
            CallerError: the letter's message cannot be read.
        """
        letter = self.get(letter_id)
        return edited(letter, changes, self._validate, self._arguments, self.hidden)

    def edit_and_retry(
        self, letter_id: str, changes: Mapping[str, Any], *, who: str | None = None, why: str = ""
    ) -> str:
        """Send it again with some fields changed; returns the queue.

        Raises as :meth:`edit` and :meth:`retry`; and ``MessageTooLarge``: it would be larger than a message may be.
        """
        edit = self.edit(letter_id, changes)
        self._check_size(edit.raw)
        act = self.begin("edit", who, why, id=edit.letter.id, diff=edit.diff())
        return self._replay(edit.letter, act, edit.raw)

    def park(self, letter_id: str, note: str, *, who: str | None = None, why: str = "") -> None:
        """Put it aside: no filter for open letters finds it, it is neither expired nor retried by itself.

        Raises:
            UnknownDeadLetter: it is not there.
        """
        letter = self.get(letter_id)
        act = self.begin("park", who, why, id=letter.id, note=note)
        emit(events.PARKED, {"count": len(self.store.park([letter.id], act, self.note(note, who)))})

    def note(self, note: str, who: str | None) -> str:
        """A note as it is kept."""
        return json.dumps({"note": note, "who": who or operator(), "at_ms": self.store.now_ms()})

    def unpark(self, letter_id: str, *, who: str | None = None, why: str = "") -> None:
        """Make it open again.

        Raises:
            UnknownDeadLetter: it is not there.
        """
        letter = self.get(letter_id)
        opened = self.store.unpark([letter.id], self.begin("unpark", who, why, id=letter.id))
        emit(events.UNPARKED, {"count": len(opened)})

    def purge(self, *, all: bool = False, who: str | None = None, why: str = "") -> int:
        """Remove all that are there now, parked ones too; one added meanwhile stays. Returns how many.

        Those that a filter means: ``query(agent=...).purge()``.

        Raises:
            InvalidPolicy: ``all=True`` was not said.
        """
        return self.query(state="all").purge(all=all, who=who, why=why)

    def import_lines(
        self,
        lines: Iterable[str | bytes],
        *,
        check_only: bool = False,
        who: str | None = None,
        why: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> tuple[int, int]:
        """Take in letters that :meth:`Selection.export` wrote; returns how many were added, and how many were here.

        A letter that is here, itself or from an earlier import, is passed over, so importing again does no harm. A bad
        line stops the import; those before it are in. ``check_only`` adds nothing.

        Raises:
            InvalidExport: a line is not one of an export, its arguments do not fit its task, or its message is larger
                than one may be; names it.
        """
        act = "" if check_only else self.begin("import", who, why)
        added = known = 0
        rows: list[Row] = []

        def take_in() -> None:
            nonlocal added, known
            new = [] if check_only or not rows else self.store.take_in(rows, act)
            added += len(new)
            known += 0 if check_only else len(rows) - len(new)
            if progress is not None:
                progress(len(rows))
            rows.clear()

        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(self._fitting(number, read_line(number, line)))
                if len(rows) >= BATCH:
                    take_in()
        finally:
            take_in()
        return added, known

    def _fitting(self, number: int, row: Row) -> Row:
        """A letter to be taken in, if its arguments fit its task; one that died because they do not is as it was.

        Raises:
            InvalidExport: they do not, or the message is too large.
        """
        try:
            self._check_size(row[1].get(b"m", b""))
        except MessageTooLarge as error:
            raise InvalidExport(number, str(error)) from None
        letter = read_letter(*row)
        body = letter.body()
        if letter.agent or letter.reason in _MISFITS or letter.error_type == "TypeError":
            return row
        if isinstance(body, list) and len(body) == 2 and isinstance(body[0], list) and isinstance(body[1], dict):
            try:
                self._arguments.check(letter.task, *body)
            except InvalidMessage as error:
                raise InvalidExport(number, str(error)) from None
        return row

    def _check_size(self, raw: bytes) -> None:
        limit = self.store.max_message_bytes
        if limit and len(raw) > limit:
            raise MessageTooLarge(len(raw), limit)

    def _known_form(self, letter_id: str) -> str:
        if not isinstance(letter_id, str):
            raise InvalidPolicy("letter_id", letter_id, "a dead letter's id")
        if not _ID.fullmatch(letter_id) or any(int(part) >= _LARGEST for part in letter_id.split("-")):
            raise UnknownDeadLetter(letter_id)
        return letter_id
