"""The stream of messages that ended outside of an execution, until Celery's backend and errbacks know of it.

The process that ends such a message (a sweep, a sender, a script of flow control) may have no result backend and not
know the errbacks. So the script that ends the message appends it to this stream in the same step, and any Celery worker
of the app takes it from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.supervision import headers_in
from orchestrator.core.keys import Keys
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.command_connection import CommandConnection

#: Celery's states, as an ending names them.
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"

#: Maximum length of the stream; ``endings.lua`` has the same number.
MOST_ENDINGS: Final = 100_000

#: The error of an ending that is revoked because the message expired.
EXPIRED: Final = "expired"


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one message. ``error`` is the name of the error's class, ``text`` its text, or the result as JSON."""

    id: str
    message: bytes
    queue: str
    state: str
    error: str
    text: str
    #: Whether only the end of the body is kept: callbacks, errbacks, chain and chord, without the arguments.
    is_cut: bool = False

    @property
    def at_ms(self) -> int:
        """The time of its end, in ms since 1970 by Redis' clock."""
        return int(self.id.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Page:
    """A page of endings that no worker is delivering."""

    endings: list[Ending]
    #: Redis' time, in ms since 1970.
    now_ms: int
    #: Where the next page begins, and whether there may be more there.
    after: str
    has_more: bool
    #: Milliseconds until an ending that another worker holds can be taken; ``None`` if none was skipped for that.
    taken_for_ms: int | None


class Endings:
    """Reads the stream of endings and takes endings from it, for one worker."""

    def __init__(self, wire: CommandConnection, keys: Keys) -> None:
        self._commands = wire
        self._keys = keys

    def read(self, app: str, reader: str, lease_s: float, after: str, count: int) -> Page | None:
        """The oldest endings after the id ``after`` (first: ``-``), about 1 MB; ``None`` if another worker reads.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        call = commands.read_endings(self._keys, app, reader, lease_ms=to_ms(lease_s), begin=after, count=count)
        is_reader, *answer = self._commands.run(*call)
        if not is_reader:
            return None
        now_ms, more, begin, free_ms, *found = answer
        endings = [_ending(raw_id, flat) for raw_id, flat in zip(found[::2], found[1::2], strict=True)]
        return Page(endings, now_ms, begin.decode(), bool(more), free_ms if free_ms >= 0 else None)

    def stop_reading(self, app: str, reader: str) -> None:
        """Release the reader's lease, so that another worker of the app can read."""
        lease = self._keys.endings_reader(app)
        if self._commands.call("GET", lease) == reader.encode():
            self._commands.call("DEL", lease)

    def take(self, ending_id: str, hold_s: float) -> bool:
        """Take an ending for ``hold_s`` seconds; returns whether this worker has it now."""
        return bool(self._commands.run(*commands.take_endings(self._keys, [ending_id], to_ms(hold_s))))

    def renew(self, ending_id: str, hold_s: float) -> None:
        """Hold a taken ending for ``hold_s`` seconds from now."""
        self._commands.run(*commands.renew_ending(self._keys, ending_id, to_ms(hold_s)))

    def finish(self, ending_id: str) -> None:
        """Remove a delivered ending."""
        self._commands.run(*commands.finish_ending(self._keys, ending_id))

    def leave(self, ending_id: str, pause_s: float, *, failed: bool) -> int:
        """Let an ending be taken again after ``pause_s`` seconds; returns how often its delivery has failed."""
        call = commands.return_ending(self._keys, ending_id, to_ms(pause_s), failed=failed)
        return int(self._commands.run(*call))

    def take_dropped(self) -> int:
        """Number of endings that were dropped since the last call."""
        return int(self._commands.call("GETDEL", self._keys.endings_dropped) or 0)


def _ending(raw_id: bytes, flat: list[bytes]) -> Ending:
    values = dict(zip(flat[::2], flat[1::2], strict=True))
    queue, state, error, text = (values.get(n, b"").decode("utf-8", "replace") for n in (b"q", b"s", b"e", b"t"))
    return Ending(raw_id.decode(), values.get(b"m", b""), queue, state, error, text, values.get(b"c") == b"1")


def headers_of(ending: Ending) -> dict[str, Any]:
    """The message's headers; empty if they cannot be read."""
    try:
        return headers_in(json.loads(ending.message))
    except (ValueError, TypeError, RecursionError):
        return {}
