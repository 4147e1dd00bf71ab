"""The scripts of asks and of timers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands.call import Attempt, Call, flat


def ask(
    keys: Keys,
    queue: str,
    level: str,
    message: bytes | str,
    *,
    delivery: str,
    ask_id: str,
    kind: str = "ask",
    fields: Mapping[str, Any],
    attempt: Attempt,
    in_flight: int = 0,
    wait_ms: int = 0,
    left_ms: int = 0,
) -> Call:
    """Accept a request, and the record of its ask with these ``fields`` (see ``includes/ask_ends.lua``).

    With ``in_flight``, at most as many requests may be; one more waits for ``wait_ms``, of which ``left_ms`` are left.

    A ``kind`` that is not ``ask`` has to do with the budget of retries and hedges: ``call``, ``retry`` or ``hedge``.
    """
    names = [
        keys.stream(queue, level),
        keys.ledger(queue),
        keys.outcome_hooks(delivery),
        keys.ask(ask_id),
        keys.timers,
        keys.calls(queue),
        attempt.key,
        keys.bulkhead(queue),
    ]
    return "ask", names, [message, delivery, ask_id, attempt.token, kind, in_flight, wait_ms, left_ms, *flat(fields)]


def leave_line(keys: Keys, queue: str, ask_id: str) -> Call:
    """Take a request whose caller waits no more out of the line of a bulkhead, unless it was accepted meanwhile."""
    return "leave_line", [keys.ask(ask_id), keys.bulkhead(queue)], [ask_id]


class AskTexts(NamedTuple):
    """One of many asks, as the script gets it."""

    #: Of the ask, and of its delivery.
    id: str
    message: str
    #: The text of the reply before the outcome, and after it.
    before: str
    after: str


def ask_many(
    keys: Keys,
    queue: str,
    level: str,
    requests: Iterable[AskTexts],
    *,
    fields: Mapping[str, Any],
    timeout_ms: int,
    attempt: Attempt,
) -> Call:
    """Accept the requests of asks, all or none; none if the mailbox' flow control has to be asked.

    ``fields`` are those that the records of all asks share.
    """
    names = [keys.stream(queue, level), keys.ledger(queue), keys.timers, keys.calls(queue), attempt.key]
    shared = flat(fields)
    head = [keys.root, attempt.token, timeout_ms, len(shared), *shared]
    return "ask_many", names, [*head, *chain.from_iterable(requests)]


def end_ask(keys: Keys, ask_id: str, why: str) -> Call:
    """End an ask: at its ``time``; by a ``time out`` of its asker; or because its asker has to ``give up``."""
    return "end_ask", [keys.ask(ask_id), keys.timers], [ask_id, why]


def begin_wait(keys: Keys, incarnation: str, delivery: str, queue: str, caller: str, callee: str) -> Call:
    """Record that a handler of ``caller`` waits for ``callee``'s reply to a delivery, and look for a ring of waits."""
    return (
        "begin_wait",
        [keys.asking(incarnation), keys.leases],
        [keys.root, incarnation, delivery, queue, caller, callee],
    )


def end_waits(keys: Keys, incarnation: str, delivery: str = "") -> Call:
    """Forget that a handler waits, or all waits of an incarnation."""
    return "end_waits", [keys.asking(incarnation)], [delivery]


def due_timers(keys: Keys, *, skip: int, most: int) -> Call:
    """Read timers that are due."""
    return "due_timers", [keys.timers], [skip, most]


def keep_reply(keys: Keys, key: str, age_ms: int, text: str) -> Call:
    """Keep a reply, as JSON, for calls that may fall back to one of that age."""
    return "keep_reply", [keys.stale_reply(key)], [age_ms, text]
