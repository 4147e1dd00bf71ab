"""The scripts that accept messages.

A publish outside of a batch passes an :class:`Attempt`, so that it is accepted once however often it is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from orchestrator.core.keys import DOORBELL, Keys
from orchestrator.transport.redis.commands.call import Attempt, Call

#: Where a script's message is among its arguments; of ``publish``, where its messages begin.
MESSAGE_AT: Final = {"publish": 2, "delay": 1, "accept": 0}

#: Where the delay is among the arguments of ``delay``.
DELAY_AT: Final = 2

#: Where the ledger is among its keys.
LEDGER_AT: Final = {"publish": 1, "delay": 3, "accept": 1}


def publish(
    stream: str,
    ledger: str,
    messages: Iterable[bytes | str],
    *,
    limit: int = 0,
    to_existing: bool = False,
    attempt: Attempt | None = None,
) -> Call:
    """Accept messages into a level of a mailbox; the longest the level may become is ``limit``, if not 0.

    With ``to_existing``, drop them if there is no such level.
    """
    most = -1 if to_existing else limit
    if attempt is None:
        return "publish", [stream, ledger], [most, "", *messages]
    return "publish", [stream, ledger, attempt.key], [most, attempt.token, *messages]


def request(
    keys: Keys, queue: str, level: str, message: bytes | str, host: str, *, limit: int = 0, attempt: Attempt
) -> Call:
    """Accept a message while an incarnation lives; the longest that the step may become is ``limit``, if not 0."""
    names = [keys.stream(queue, level), keys.ledger(queue), attempt.key, keys.leases]
    return "request", names, [limit, attempt.token, host, message]


def delay(
    keys: Keys,
    queue: str,
    member: str,
    message: bytes | str,
    delay_ms: int,
    *,
    expires_ms: int = 0,
    attempt: Attempt | None = None,
) -> Call:
    """Accept a message that is due in ``delay_ms``.

    Its ``member`` begins with its level and a ``|``. A queue that expires lives for ``expires_ms`` when unused; 0: for
    ever.
    """
    return (
        "delay",
        _once([*_delayed(keys, queue), keys.ledger(queue)], attempt),
        [member, message, delay_ms, expires_ms, *_token(attempt)],
    )


def alike(call: Call, level: str, messages: Mapping[str, str]) -> list[Call]:
    """The calls that accept other messages, by their ids, as ``call``, a publish or a delay, accepts one."""
    script, names, args = call
    before, after = args[: MESSAGE_AT[script]], args[MESSAGE_AT[script] + 1 :]
    if script == "publish":
        return [(script, names, [*before, *messages.values()])]
    return [(script, names, [f"{level}|{id_}", text, *after]) for id_, text in messages.items()]


def accept(
    keys: Keys,
    queue: str,
    level: str,
    message: bytes | str,
    *,
    idempotency_key: str,
    delivery: str,
    member: str,
    ttl_ms: int,
    pending_ms: int,
    delay_ms: int = 0,
    attempt: Attempt | None = None,
) -> Call:
    """Accept a message now or in ``delay_ms``, unless its idempotency key is taken.

    The key is remembered for ``ttl_ms`` after the outcome, and for ``pending_ms`` until there is one.
    """
    first = [keys.stream(queue, level), keys.ledger(queue), idempotency_key, keys.outcome_hooks(delivery)]
    return (
        "accept",
        _once([*first, *_delayed(keys, queue)], attempt),
        [message, delay_ms, member, delivery, ttl_ms, pending_ms, *_token(attempt)],
    )


def broadcast(
    keys: Keys,
    part: str,
    copies: Iterable[Sequence[str]],
    *,
    publishes: str,
    group: str = "",
    group_ms: int,
    all_or_nothing: bool,
    nonce: str,
    ahead: int = 0,
    texts: Sequence[str] = (),
) -> Call:
    """Accept a message for each of many mailboxes.

    Args:
        keys: the names of keys.
        part: the id of this part of the broadcast.
        copies: of each its queue, its level, the message, the delivery's id, and its place in the group or ''.
        publishes: the hash of last publishes.
        group: the key of the group, if the broadcast has a compensation; '' otherwise.
        group_ms: for how long the group is kept.
        all_or_nothing: whether one refusal stops the others.
        nonce: by which the script finds the places to fill in the ``texts``.
        ahead: by how much the group's number of pending copies is to differ from those accepted here.
        texts: the compensations.
    """
    head = [part, keys.root, "1" if all_or_nothing else "0", group_ms, nonce, ahead, len(texts), *texts]
    names = [keys.leases, publishes, *([group] if group else [])]
    return "broadcast", names, [*head, *chain.from_iterable(copies)]


def _delayed(keys: Keys, queue: str) -> list[str]:
    return [keys.delayed(queue), keys.delayed_bodies(queue), keys.stream(queue, DOORBELL)]


def _once(keys: Sequence[str], attempt: Attempt | None) -> list[str]:
    return [*keys, *([attempt.key] if attempt is not None else ())]


def _token(attempt: Attempt | None) -> tuple[str, ...]:
    return (attempt.token,) if attempt is not None else ()
