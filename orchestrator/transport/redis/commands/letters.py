"""The scripts of dead letters."""

from __future__ import annotations

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
