"""The scripts of endings: messages that ended outside of an execution, until Celery knows."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands.call import Call


def end_later(keys: Keys, queue: str, message: bytes | str, state: str, error: str, text: str) -> Call:
    """Leave a message's end for a worker to deliver: Celery's state, and class and text of the error."""
    return "end_later", [keys.ledger(queue)], [message, state, error, text]


def read_endings(keys: Keys, app: str, reader: str, *, lease_ms: int, begin: str, count: int) -> Call:
    """Read ``count`` endings from ``begin`` on, as the only reader of this app for ``lease_ms``."""
    names = [keys.endings, keys.endings_taken, keys.endings_reader(app)]
    return "read_endings", names, [reader, lease_ms, begin, count]


def take_endings(keys: Keys, ids: Iterable[str], hold_ms: int) -> Call:
    """Take endings, which no other worker gets for ``hold_ms``."""
    return "take_endings", [keys.endings, keys.endings_taken], [hold_ms, *ids]


def renew_ending(keys: Keys, ending_id: str, hold_ms: int) -> Call:
    """Hold a taken ending for ``hold_ms`` from now."""
    return "renew_ending", [keys.endings_taken], [ending_id, hold_ms]


def finish_ending(keys: Keys, ending_id: str) -> Call:
    """Remove an ending that Celery knows of."""
    return "finish_ending", [keys.endings, keys.endings_taken, keys.endings_failed], [ending_id]


def return_ending(keys: Keys, ending_id: str, wait_ms: int, *, failed: bool) -> Call:
    """Leave an ending for another try in ``wait_ms``; ``failed``: this try counts."""
    return "return_ending", [keys.endings_taken, keys.endings_failed], [ending_id, wait_ms, int(failed)]
