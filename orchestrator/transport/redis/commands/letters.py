"""The scripts of dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands.call import Attempt, Call


def dead_letter_unsent(
    keys: Keys,
    queue: str,
    message: bytes | str,
    letter: bytes | str,
    reason: str,
    error: str,
    text: str,
    *,
    attempt: Attempt,
) -> Call:
    """Make a dead letter of a message that no mailbox took; ``letter`` is JSON, ``text`` goes to Celery."""
    return (
        "dead_letter_unsent",
        [keys.ledger(queue), attempt.key],
        [keys.root, queue, message, letter, reason, error, attempt.token, text],
    )


def replay(
    keys: Keys,
    level: str,
    ids: Iterable[bytes | str],
    *,
    audit_id: str,
    auto: bool = False,
    watched: bool = False,
    message: bytes | str = b"",
) -> Call:
    """Replay letters into this level of their mailboxes.

    Args:
        keys: the names of keys.
        level: the level.
        ids: the letters.
        audit_id: the audit entry; '' if there is none.
        auto: whether it counts as an automatic replay.
        watched: whether the outcomes are watched, for a canary.
        message: replaces the message of the letter, if it is not empty.
    """
    head = [keys.root, level, audit_id, "1" if auto else "0", "1" if watched else "", message]
    return "replay", [], [*head, *ids]


def replay_found(
    keys: Keys,
    level: str,
    indexed: Iterable[tuple[str, str]],
    *,
    audit_id: str,
    watched: bool,
    low: str,
    high: str,
    limit: int,
    examine: int,
    state: str,
) -> Call:
    """Replay the next ``limit`` letters of a search, among ``examine`` ones; the rest is as in :func:`find_letters`."""
    head = [keys.root, level, audit_id, "1" if watched else ""]
    return "replay_found", [], [*head, low, high, limit, examine, state, *_pairs(indexed)]


def find_letters(
    keys: Keys,
    indexed: Iterable[tuple[str, str]],
    *,
    oldest_first: bool,
    low: str,
    high: str,
    limit: int,
    examine: int,
    state: str,
) -> Call:
    """Do one step of a search.

    Args:
        keys: the names of keys.
        indexed: dimensions and the values that the letters have in them.
        oldest_first: the direction.
        low: the lowest id, as XRANGE takes it.
        high: the highest id.
        limit: the most letters to find.
        examine: the most letters to look at.
        state: ``open``, ``parked`` or ``all``.
    """
    head = [keys.root, "1" if oldest_first else "0", low, high, limit, examine, state]
    return "find_letters", [], [*head, *_pairs(indexed)]


def count_letters(keys: Keys, indexed: Iterable[tuple[str, str]], *, cursor: bytes | int, kinds: int) -> Call:
    """Count the letters of about ``kinds`` kinds that have these values; ``cursor`` is 0 at first."""
    return "count_letters", [], [keys.root, cursor, kinds, *_pairs(indexed)]


def park_letters(keys: Keys, ids: Iterable[str], *, audit_id: str, note: str) -> Call:
    """Park letters with a note, as JSON."""
    return "park_letters", [], [keys.root, audit_id, note, *ids]


def unpark_letters(keys: Keys, ids: Iterable[str], *, audit_id: str) -> Call:
    """Make parked letters open again."""
    return "unpark_letters", [], [keys.root, audit_id, *ids]


def purge_letters(keys: Keys, ids: Iterable[str], *, audit_id: str) -> Call:
    """Remove letters."""
    return "purge_letters", [], [keys.root, audit_id, *ids]


def import_letters(keys: Keys, letters: Iterable[Sequence[bytes | str]], *, audit_id: str) -> Call:
    """Add letters: of each the fields in the script's order, and its note or ''."""
    return "import_letters", [], [keys.root, audit_id, *chain.from_iterable(letters)]


def schedule_letters(keys: Keys, *, limit: int, max_replays: int, first_ms: int, reasons: Iterable[str]) -> Call:
    """Plan at most ``max_replays`` automatic replays of each of ``limit`` letters, the first one in ``first_ms``.

    Only letters with one of the ``reasons`` are replayed.
    """
    return "schedule_letters", [], [keys.root, limit, max_replays, first_ms, *reasons]


def _pairs(indexed: Iterable[tuple[str, str]]) -> list[str]:
    return [part for pair in indexed for part in pair]
