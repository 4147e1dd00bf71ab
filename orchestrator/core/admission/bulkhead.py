"""A bulkhead: how many requests to an agent may be in flight at a time, over all callers.

``includes/bulkhead.lua`` has the same rule for Redis; eager mode calls this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.core.checks.numbers import check_number, check_whole_number
from orchestrator.core.spelling.option_names import named_options

_MOST_CALLS: Final = 100_000
_LONGEST_WAIT_S: Final = 3600


@named_options
@dataclass(frozen=True, slots=True)
class Bulkhead:
    """At most ``calls`` requests to an agent (calls and asks) are in flight at a time, over all callers.

    One more waits for at most ``wait_s`` seconds, and is refused with :class:`BulkheadFull` then. A request is in
    flight from its acceptance until its outcome, or until its time is over. Other messages are not counted.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    calls: int
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        check_whole_number("calls", self.calls, 1, _MOST_CALLS)
        check_number("wait_s", self.wait_s, 0, _LONGEST_WAIT_S)


def in_flight(requests: Mapping[str, int], now_ms: int) -> dict[str, int]:
    """Those of the requests, by their asks, whose time is not over; their values are when it is, in ms."""
    return {ask: due_ms for ask, due_ms in requests.items() if due_ms > now_ms}


def admitted(requests: Mapping[str, int], calls: int, ask: str, due_ms: int, now_ms: int) -> dict[str, int] | None:
    """The requests in flight with one more; ``None`` if as many as may are in flight."""
    known = in_flight(requests, now_ms)
    return None if len(known) >= calls else {**known, ask: due_ms}
