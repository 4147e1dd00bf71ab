"""The scripts that end the attempt of a message that is held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.core.keys import DOORBELL, GROUP, Keys
from orchestrator.transport.redis.commands.call import Call


def settle(stream: str, ledger: str, outcome: str, entries: Sequence[bytes | str], *, group: str = GROUP) -> Call:
    """End deliveries with a mere count: an outcome, or one with a blank and what the breaker needs behind it."""
    return "settle", [stream, ledger], [group, outcome, *entries]


def settle_with_outcome(
    stream: str,
    ledger: str,
    outcome_key: str,
    entry: bytes | str,
    counter: str,
    outcome: bytes | str,
    ttl_ms: int,
    *,
    reason: str = "",
) -> Call:
    """End one delivery and record its outcome, as JSON, for that many ms; the ``reason`` is for the breaker."""
    args = [GROUP, entry, counter, outcome, ttl_ms, *([reason] if reason else [])]
    return "settle_with_outcome", [stream, ledger, outcome_key], args


def dead_letter(
    keys: Keys,
    queue: str,
    stream: str,
    entry: bytes | str,
    letter: bytes | str,
    reason: str,
    error: str,
    *,
    fingerprint: str = "",
    delivery: str = "",
    outcome: str = '{"outcome":"dead"}',
    ttl_ms: int,
    celery_error: Sequence[bytes | str] = (),
) -> Call:
    """End a delivery as a dead letter.

    Args:
        keys: the names of keys.
        queue: the mailbox.
        stream: the stream of the mailbox in which the message lies.
        entry: its id there.
        letter: what is recorded, as JSON.
        reason: the letter's reason.
        error: the type of the letter's error, or ''.
        fingerprint: the group of its stack; if '', the script makes one of the reason and the error.
        delivery: the id under which the ``outcome`` is recorded; '' if it is not.
        outcome: a JSON object, to which the script adds the letter's id.
        ttl_ms: for how long the outcome is kept.
        celery_error: class and text of the error that a worker records for Celery later, if Celery does not know.
    """
    return (
        "dead_letter",
        [stream, keys.ledger(queue), *([keys.outcome(delivery)] if delivery else [])],
        [GROUP, entry, keys.root, queue, letter, reason, error, fingerprint, outcome[:-1], ttl_ms, *celery_error],
    )


def retry(
    keys: Keys,
    queue: str,
    stream: str,
    entry: bytes | str,
    member: str,
    message: bytes | str,
    delay_ms: int,
    *,
    ttl_ms: int,
    delivery: str = "",
) -> Call:
    """End an attempt and schedule ``message``, the next one, in ``delay_ms``.

    Its ``member`` begins with its level and a ``|``. If the tracked ``delivery`` was cancelled meanwhile, it ends, and
    its outcome is kept for ``ttl_ms``.
    """
    delayed = [keys.delayed(queue), keys.delayed_bodies(queue), keys.stream(queue, DOORBELL)]
    return (
        "retry",
        [stream, keys.ledger(queue), *delayed, *([keys.outcome(delivery)] if delivery else ())],
        [GROUP, entry, member, message, delay_ms, ttl_ms],
    )


def requeue_held(
    keys: Keys,
    queue: str,
    stream: str,
    entries: Iterable[bytes | str],
    *,
    max_deaths: int,
    ttl_ms: int,
    by: str,
    reason: str = "",
    ran: str = "0",
) -> Call:
    """Requeue messages by their holder, with a death in their history where there is a ``reason``.

    ``ran`` is how they ran: ``"1"`` alone, ``"0"`` otherwise, ``"stopping"``, ``"unattributed"`` or ``"undelivered"``.
    """
    return "requeue_held", [stream], [keys.root, queue, GROUP, max_deaths, ttl_ms, reason, by, ran, *entries]
