"""The dead-letter log: reading letters, replaying, editing, parking, removing and importing them."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.checks.choices import check_bool
from orchestrator.core.errors import CallerError, InvalidPolicy, MessageTooLarge, UnknownDeadLetter
from orchestrator.deadletters.criteria import Criteria, check_limit
from orchestrator.deadletters.edit import Arguments, Edit, NoSignatures, Validate, edited
from orchestrator.deadletters.importing import import_lines
from orchestrator.deadletters.letter import DeadLetter, read_letter
from orchestrator.deadletters.replay import emit_replayed
from orchestrator.deadletters.selection import Selection
from orchestrator.deadletters.store import BATCH, AuditEntry, DeadLetterStore
from orchestrator.telemetry import emit, events

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

#: Newest letters among which a delivery's letter is searched for; there is no index of deliveries.
_READ_FOR_DELIVERY = 10_000

#: Both parts of a Redis stream id are below this.
_ID_PART_LIMIT = 2**64


def operator() -> str:
    """The default of ``who``: ``user@host`` of this process."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return f"somebody@{socket.gethostname()}"


class DeadLetters:
    """The dead-letter log.

    Methods that change letters take ``who`` (``user@host`` of this process by default) and ``why``, and write an audit
    entry before they begin. Every method raises :class:`~orchestrator.core.errors.BrokerUnavailable` while Redis cannot
    be reached.
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

    # -- reading

    def list(self, limit: int = 50, *, before: str | None = None) -> list[DeadLetter]:
        """Letters, parked ones included, newest first; with ``before`` only those older than this id.

        Raises:
            UnknownDeadLetter: ``before`` is not a letter's id.
            InvalidPolicy: ``limit`` is not a whole number from 0.
        """
        check_limit(limit)
        if before is not None:
            self.check_id(before)
        # Redis refuses a count of 0.
        return [read_letter(*row) for row in self.store.newest(limit, f"({before}" if before else "+")] if limit else []

    def count(self) -> int:
        """Number of letters, parked ones included."""
        return self.store.size()

    def get(self, letter_id: str) -> DeadLetter:
        """One letter.

        Raises:
            UnknownDeadLetter: the log has no letter with this id.
        """
        rows = self.store.rows([self.check_id(letter_id)])
        if not rows:
            raise UnknownDeadLetter(letter_id)
        return read_letter(*rows[0])

    def of_delivery(self, delivery_id: str) -> DeadLetter | None:
        """The newest letter of a delivery among the newest 10,000 letters; ``None`` if there is none."""
        before: str | None = None
        for _ in range(_READ_FOR_DELIVERY // BATCH):
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
        """The letters that match all given criteria; see :class:`~.criteria.Criteria`. Reads nothing yet.

        Raises:
            InvalidPolicy: a value is not allowed.
        """
        criteria = Criteria(agent, message, error, reason, group, older_than_s, newer_than_s, metadata, text, state)
        return Selection(self, criteria)

    def audit(self, limit: int = 50) -> Sequence[AuditEntry]:
        """The records of actions on dead letters, newest first.

        Raises:
            InvalidPolicy: ``limit`` is not a whole number from 0.
        """
        check_limit(limit)
        return self.store.audit_entries(limit) if limit else []

    # -- changing

    def record(self, kind: str, who: str | None, why: str, **detail: Any) -> str:
        """Write the audit entry of an action that begins; returns the entry's id."""
        return self.store.add_audit_entry(kind, who or operator(), why, detail)

    def replay(self, letter_id: str, *, who: str | None = None, why: str = "") -> str:
        """Replay a letter; concurrent calls replay it once.

        Returns the id of its delivery, which is pending again: ``orchestrator.delivery(id).wait(timeout_s=5)``. For a
        plain task it is the Celery task id; it is empty if the message has none.

        Raises:
            UnknownDeadLetter: the log has no letter with this id (any more).
            CallerError: the letter names no mailbox.
            MailboxFull, CircuitOpen: the mailbox refuses messages now; the letter stays.
            RunEnded: it is a step of a workflow's run whose compensation has begun, and no `undo`; the letter stays.
            StepGoesOn: it is a step that has begun again, or of which another letter was replayed; the letter stays.
        """
        letter = self.get(letter_id)
        return self._replay(letter, self.record("replay", who, why, id=letter.id))

    def _replay(self, letter: DeadLetter, audit_id: str, replacement: bytes = b"") -> str:
        if not letter.queue:
            raise CallerError(f"dead letter {letter.id!r} names no mailbox to replay it to")
        result = self.store.replay([letter.id], audit_id, auto=False, watched=False, replacement=replacement)
        for refused in result.refusals:
            raise refused.why
        if not result.batches:
            raise UnknownDeadLetter(letter.id)
        emit_replayed(result)
        return letter.delivery_id

    def edit(self, letter_id: str, changes: Mapping[str, Any]) -> Edit:
        """A changed copy of the letter's message; nothing is sent.

        ``changes`` replaces fields of the message, or arguments of a plain task by the names of its parameters.

        Raises:
            UnknownDeadLetter: the log has no letter with this id.
            InvalidMessage: the changed message does not fit its model, or the task's signature.
            CallerError: the letter's message cannot be read.
        """
        letter = self.get(letter_id)
        return edited(letter, changes, self._validate, self._arguments, self.hidden)

    def edit_and_replay(
        self, letter_id: str, changes: Mapping[str, Any], *, who: str | None = None, why: str = ""
    ) -> str:
        """Replay a letter with some fields changed; returns the id of its delivery, as :meth:`replay`.

        Raises as :meth:`edit` and :meth:`replay`, and ``MessageTooLarge`` if the changed message exceeds the limit.
        """
        edit = self.edit(letter_id, changes)
        self._check_size(edit.raw)
        audit_id = self.record("edit", who, why, id=edit.letter.id, diff=edit.diff())
        return self._replay(edit.letter, audit_id, edit.raw)

    def park(self, letter_id: str, note: str, *, who: str | None = None, why: str = "") -> None:
        """Park a letter: filters for open letters do not find it, and it neither expires nor is replayed automatically.

        Raises:
            UnknownDeadLetter: the log has no letter with this id.
        """
        letter = self.get(letter_id)
        audit_id = self.record("park", who, why, id=letter.id, note=note)
        emit(events.PARKED, {"count": len(self.store.park([letter.id], audit_id, self.park_note(note, who)))})

    def park_note(self, note: str, who: str | None) -> str:
        """A parking note as it is stored: JSON with the note, its author, and the time."""
        return json.dumps({"note": note, "who": who or operator(), "at_ms": self.store.now_ms()})

    def unpark(self, letter_id: str, *, who: str | None = None, why: str = "") -> None:
        """Open a parked letter.

        Raises:
            UnknownDeadLetter: the log has no letter with this id.
        """
        letter = self.get(letter_id)
        opened = self.store.unpark([letter.id], self.record("unpark", who, why, id=letter.id))
        emit(events.UNPARKED, {"count": len(opened)})

    def purge(self, *, all: bool = False, who: str | None = None, why: str = "") -> int:
        """Remove all letters, parked ones included, except those added meanwhile. Returns how many.

        To remove some: ``query(agent=...).purge()``.

        Raises:
            InvalidPolicy: ``all`` is not true.
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
        """Import lines that :meth:`Selection.export` wrote; returns how many letters were added, and how many skipped.

        A letter that is in the log, by its own id or from an earlier import, is skipped, so an import can be repeated.
        A bad line stops the import; the lines before it are imported. ``check_only``: add nothing.

        Raises:
            InvalidPolicy: ``check_only`` is neither true nor false.
            InvalidExport: a line is not of an export, its arguments do not fit its task, or its message exceeds the
                size limit; names the line.
        """
        audit_id = "" if check_bool("check_only", check_only) else self.record("import", who, why)
        return import_lines(self.store, lines, audit_id, self._arguments, progress)

    # -- checks

    def _check_size(self, raw: bytes) -> None:
        limit = self.store.max_message_bytes
        if limit and len(raw) > limit:
            raise MessageTooLarge(len(raw), limit)

    @staticmethod
    def check_id(letter_id: str) -> str:
        """The id, if it has the form of a letter's.

        Raises:
            InvalidPolicy: it is not a text.
            UnknownDeadLetter: no letter can have this id.
        """
        if not isinstance(letter_id, str):
            raise InvalidPolicy("letter_id", letter_id, "a dead letter's id")
        if not _ID.fullmatch(letter_id) or any(int(part) >= _ID_PART_LIMIT for part in letter_id.split("-")):
            raise UnknownDeadLetter(letter_id)
        return letter_id
