"""The scripts of schedules as typed functions: each puts keys and arguments into the order that its script expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.scripts import Script, script_of

#: The script, its keys and its arguments, for ``store.run(*call)``.
Call: TypeAlias = tuple[Script, list[Any], list[Any]]

#: Most schedules of one call. At 70 µs each for `fire`, a call holds Redis for less than 5 ms.
MOST_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Written:
    """A fire's message, ready for its mailbox; an empty ``queue`` says that it was sent by other means."""

    delivery: str
    queue: str = ""
    level: str = ""
    text: str = ""
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """The end of one or several due times, for the history."""

    what: str
    last_ms: int
    first_ms: int
    number: int = 1
    reason: str = ""
    delivery: str = ""
    into_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """The changes of a decision in Redis."""

    #: Fields of the state: value, or '' to delete.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: Field of the state, by how much, why.
    counts: Sequence[tuple[str, int, str]] = ()
    records: Sequence[Record] = ()

    def write(self, args: list[Any]) -> None:
        """Append it to the arguments of a script."""
        args.append(len(self.fields))
        for pair in self.fields.items():
            args += pair
        args.append(len(self.counts))
        for count in self.counts:
            args += count
        args.append(len(self.records))
        for r in self.records:
            args += (r.what, r.last_ms, r.first_ms, r.number, r.reason, r.delivery, _or_empty(r.into_ms))


NOTHING: Final = Change()


@dataclass(frozen=True, slots=True)
class Advance:
    """A decision about a schedule that is due, and what it was decided by."""

    id: str
    rev: int
    nominal_ms: int | None
    running: str
    due_ms: int | None
    message: Written | None = None
    #: '' if nothing waits for the outcome; '0' if the next fire does; '1' if its failure pauses the schedule, too.
    waits: str = ""
    change: Change = NOTHING


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule to be added or changed."""

    id: str
    owner: str
    definition: str
    due_ms: int | None
    bound: bool = False
    #: 'add', 'keep' or 'replace'.
    mode: str = "replace"
    #: The revision of the one that exists.
    rev: int | None = None
    change: Change = NOTHING


def due_schedules(
    keys: Keys,
    scheduler: str,
    by: str,
    *,
    turn_ms: int,
    most: int,
    stale_ms: int,
    mark: str,
    bound: Iterable[str] = (),
    after: int = 0,
    housekeeping: tuple[str, str, str] = ("", "", ""),
) -> Call:
    """Take or extend the turn, and read what is due.

    Args:
        keys: the names of keys.
        scheduler: who asks.
        by: what people know it by.
        turn_ms: how long a turn lasts.
        most: how many schedules to read at most.
        stale_ms: for how long nobody must have scheduled before it takes the turn; -1: it takes none.
        mark: for a data set that has none.
        bound: the bound schedules that it declares.
        after: how many of the first ones to leave out, because the caller has read them.
        housekeeping: stream and ledger of the monitor manager's mailbox, and a message that starts its housekeeping.
    """
    args = [keys.root, scheduler, by, turn_ms, most, after, stale_ms, mark, *housekeeping, *bound]
    return _script("due_schedules"), [keys.scheduler], args


def end_turn(keys: Keys, scheduler: str) -> Call:
    """End a scheduler's turn, and what it declares."""
    return _script("end_turn"), [keys.scheduler, keys.schedulers, keys.scheduler_declares(scheduler)], [scheduler]


def fire(keys: Keys, advances: Iterable[Advance], *, most_history: int, again_ms: int) -> Call:
    """Accept the messages of schedules that are due, and advance these schedules."""
    args: list[Any] = [keys.root, most_history, again_ms]
    for one in advances:
        message = one.message
        args += (
            one.id,
            one.rev,
            _or_empty(one.nominal_ms),
            one.running,
            _or_empty(one.due_ms),
        )
        if message is None:
            args += ("", "", "", 0, "", "")
        else:
            args += (message.delivery, message.queue, message.level, message.delay_ms, one.waits, message.text)
        one.change.write(args)
    return _script("fire"), [], args


def declare_schedules(
    keys: Keys, declarations: Iterable[Declaration], *, most: int, most_history: int, attempt: Attempt
) -> Call:
    """Add schedules, or change their definitions; at most :data:`MOST_AT_ONCE`."""
    args: list[Any] = [keys.root, most, most_history, attempt.token]
    for one in declarations:
        args += (
            one.id,
            one.owner,
            one.mode,
            _or_empty(one.rev),
            one.definition,
            _or_empty(one.due_ms),
            "1" if one.bound else "",
        )
        one.change.write(args)
    return _script("declare_schedules"), [keys.schedules, keys.leases, attempt.key], args


def change_schedule(
    keys: Keys,
    schedule_id: str,
    action: str,
    *,
    most_history: int,
    rev: int | None = None,
    why: str = "",
    due_ms: int | None = None,
    change: Change = NOTHING,
    attempt: Attempt | None = None,
) -> Call:
    """Change a schedule's state ('change'), set it aside ('set_aside'), or remove it ('remove').

    Without an ``attempt`` its answer is not recorded; for calls that are not repeated.
    """
    own = _or_empty(rev), action, why, _or_empty(due_ms), attempt.token if attempt else ""
    args: list[Any] = [keys.root, most_history, schedule_id, *own]
    change.write(args)
    names: list[Any] = [keys.schedule(schedule_id), keys.schedules, keys.schedules_broken]
    if attempt is not None:
        names.append(attempt.key)
    if not schedule_id.isascii():
        # An id that is not UTF-8 has its bytes as surrogates.
        args[2], names[0] = (one.encode("utf-8", "surrogateescape") for one in (schedule_id, names[0]))
    return _script("change_schedule"), names, args


def send_for_schedule(
    keys: Keys, schedule_id: str, messages: Iterable[tuple[Written, Change]], *, token: str, most_history: int
) -> Call:
    """Accept messages beside the due times (a trigger, a part of a backfill), once for a ``token``."""
    args: list[Any] = [keys.root, schedule_id, most_history]
    for one, change in messages:
        args += (one.queue, one.level, one.text)
        change.write(args)
    names = [keys.schedule(schedule_id), keys.schedules, keys.schedule_request(token)]
    return _script("send_for_schedule"), names, args


def retire_schedules(keys: Keys, owner: str, *, most: int, most_history: int, declared_or_not: bool = False) -> Call:
    """Remove the schedules of an incarnation that has ended, or static ones that nobody declares."""
    return (
        _script("retire_schedules"),
        [keys.schedulers],
        [keys.root, owner, most, most_history, "1" if declared_or_not else ""],
    )


def _or_empty(value: int | None) -> int | str:
    return "" if value is None else value


def _script(name: str) -> Script:
    return script_of("orchestrator.schedules", name)
