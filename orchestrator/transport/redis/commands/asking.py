"""The scripts of asks and of timers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    fields: Mapping[str, Any],
    attempt: Attempt,
) -> Call:
    """Accept a request, and the record of its ask with these ``fields`` (see ``includes/asks.lua``)."""
    names = [
        keys.stream(queue, level),
        keys.ledger(queue),
        keys.outcome_hooks(delivery),
        keys.ask(ask_id),
        keys.timers,
        keys.calls(queue),
        attempt.key,
    ]
    return "ask", names, [message, delivery, ask_id, attempt.token, *flat(fields)]


def end_ask(keys: Keys, ask_id: str, *, is_time: bool) -> Call:
    """End an ask: because its time has come, or because its asker gives up."""
    return "end_ask", [keys.ask(ask_id), keys.timers], [ask_id, "time" if is_time else "give up"]


def due_timers(keys: Keys, *, skip: int, most: int) -> Call:
    """Read timers that are due."""
    return "due_timers", [keys.timers], [skip, most]
