"""The functions that run when a timer is due, by the timer's kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from orchestrator.transport.redis import commands

if TYPE_CHECKING:
    from orchestrator.wiring.redis_mode import RedisMode

#: Scripts of up to 200 messages by which one sweep lets deferred messages of one mailbox go.
_MOST_RELEASES: Final = 50


def timer_functions(redis: RedisMode) -> Mapping[str, Callable[[str], object]]:
    """The function of each kind; it is called with the name of what is due."""

    def release_deferred(queue: str) -> None:
        """Let go of a mailbox' deferred messages; the script sets the timer anew if some are left."""
        store = redis.store
        for _ in range(_MOST_RELEASES):
            moved, left = store.run(*commands.release_deferred(store.keys, queue))
            if not moved or not left:
                return

    def check_lanes(queue: str) -> None:
        """Find permits that nothing has any more, and lanes that could go on; the script sets the timer anew."""
        redis.store.run(*commands.check_lanes(redis.store.keys, queue))

    def time_out_ask(ask_id: str) -> None:
        redis.store.run(*commands.end_ask(redis.store.keys, ask_id, "time"))

    def time_of_run_came(what: str) -> None:
        """Act on ``UID:STEP`` or ``UID:deadline``."""
        uid, _, step = what.partition(":")
        redis.runs.controls.control(uid, "time", step)

    return {
        "run": time_of_run_came,
        "ask": time_out_ask,
        "deferred": release_deferred,
        "lanes": check_lanes,
        "items": lambda what: redis.distribution.release(what),
        "ballot": lambda what: redis.ballots.time_came(what),
        "barrier": lambda what: redis.barriers.time_came(what),
        "barrier-rest": lambda what: redis.barriers.rest_is_due(what),
    }
