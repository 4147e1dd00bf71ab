"""The stream of messages that ended outside of an execution, until Celery's side of them has ended too.

Whoever ends such a message (a sweep, a sender, a script of flow control) may have no result backend and know no
errbacks. So the script that ends it appends it here, as one step, and any Celery worker of its app takes it from here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import Keys
from orchestrator.transport.wire import Wire

#: Celery's states, as an ending names them.
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"

#: At most this many lie in the stream, also in ``endings.lua``.
MOST_ENDINGS: Final = 100_000

#: The error of one that is revoked because it expired.
EXPIRED: Final = "expired"


@dataclass(frozen=True, slots=True)
class Ending:
    """How one message ended; ``error`` is the name of the class, ``text`` its text, or a result as JSON."""

    id: str
    message: bytes
    queue: str
    state: str
    error: str
    text: str
    #: The body is only its end: the callbacks, errbacks, chain and chord, without the arguments.
    is_cut: bool = False

    @property
    def at_ms(self) -> int:
        """When it ended, in ms since 1970 by Redis' clock."""
        return int(self.id.partition("-")[0])


def fields_of(message: str | bytes, queue: str, state: str, error: str, text: str) -> list[str | bytes]:
    """An ending as it lies in the stream; ``endings.lua`` writes the same."""
    return ["m", message, "q", queue, "s", state, "e", error, "t", text]


class Endings:
    """The stream, for one worker."""

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self._wire = wire
        self._keys = keys

    def page(self, after: str, count: int) -> list[Ending]:
        """The oldest of those that came after one; all from the first with ``after="-"``.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        begin = "-" if after == "-" else f"({after}"
        found = []
        for raw_id, flat in self._wire.call("XRANGE", self._keys.endings, begin, "+", "COUNT", count):
            values: dict[bytes, bytes] = (
                flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
            )
            queue, state, error, text = (
                values.get(n, b"").decode("utf-8", "replace") for n in (b"q", b"s", b"e", b"t")
            )
            is_cut = values.get(b"c") == b"1"
            found.append(Ending(raw_id.decode(), values.get(b"m", b""), queue, state, error, text, is_cut))
        return found

    def take(self, ids: Sequence[str], hold_s: float) -> set[str]:
        """Those of them that no other worker has; none will have them for that long."""
        k = self._keys
        got = self._wire.run("take_endings", [k.endings, k.endings_taken], [to_ms(hold_s), *ids])
        return {raw.decode() for raw in got}

    def finish(self, ending_id: str) -> None:
        """Remove one."""
        k = self._keys
        self._wire.run("finish_ending", [k.endings, k.endings_taken, k.endings_failed], [ending_id])

    def leave(self, ending_id: str, pause_s: float, *, failed: bool) -> int:
        """Leave one for another try; returns how often it has failed."""
        k, args = self._keys, [ending_id, to_ms(pause_s), int(failed)]
        return int(self._wire.run("return_ending", [k.endings_taken, k.endings_failed], args))

    def take_dropped(self) -> int:
        """How many were not kept since this was last asked."""
        return int(self._wire.call("GETDEL", self._keys.endings_dropped) or 0)

    def now_ms(self) -> int:
        """The time by Redis' clock."""
        seconds, micros = self._wire.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def headers_of(ending: Ending) -> dict[str, Any]:
    """The message's headers; empty if they cannot be read."""
    try:
        headers = json.loads(ending.message)["headers"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}
