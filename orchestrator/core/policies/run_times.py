"""Run times of attempts: a histogram with exponential buckets, and the timeout that it suggests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: Each bucket is this much wider than the one before, so a quantile is wrong by 7 % at most.
_GROWTH: Final = 1.15
_LOG_GROWTH: Final = math.log(_GROWTH)

#: The first and the last bucket: below 0.1 ms, above 30 days.
_FIRST, _LAST = -66, 107

#: Counts attempts that a timeout has ended; no bucket has this number.
TIMED_OUT: Final = -1000

#: Attempts from which a 99th percentile means something.
ENOUGH: Final = 100


def bucket_of(seconds: float) -> int:
    """The bucket of a run time; of a negative one, which stands for a timeout, :data:`TIMED_OUT`."""
    if seconds < 0:
        return TIMED_OUT
    if seconds <= 0.0001:
        return _FIRST
    return min(_LAST, max(_FIRST, math.ceil(math.log(seconds) / _LOG_GROWTH)))


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The run time that the share ``q`` of the attempts did not exceed.

    Attempts that timed out count as longer than any other; ``None`` if it is one of these, or there are none.
    """
    rank, below = math.ceil(q * sum(counts.values())), 0
    for bucket in sorted(set(counts) - {TIMED_OUT}):
        below += counts[bucket]
        if below >= rank > 0:
            return _middle(bucket)
    return None


def _middle(bucket: int) -> float:
    # The value from which both ends of the bucket are equally far, as a share.
    return 2 * _GROWTH**bucket / (1 + _GROWTH)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The run times of a task's attempts, and the timeout that follows from them."""

    task: str
    #: Attempts that were handled, and those that a timeout ended.
    handled: int
    timed_out: int
    p50_s: float | None
    #: ``None`` if more than 1 % timed out: then it is not known.
    p99_s: float | None
    longest_s: float | None
    #: The timeout that applies now.
    timeout_s: float | None
    #: ``None`` for too few attempts.
    suggested_s: float | None


def suggest(
    task: str, counts: Mapping[int, int], timeout_s: float | None, margin: float = 2.0, factor: float = 1.0
) -> Suggestion:
    """A timeout of ``margin`` times the 99th percentile; ``factor`` multiplies all timeouts, so it is divided by that.

    If that is not known, because more than 1 % of the attempts timed out, twice the timeout that they had.
    """
    timed_out = counts.get(TIMED_OUT, 0)
    handled = sum(counts.values()) - timed_out
    longest_s, p99_s = quantile({b: n for b, n in counts.items() if b != TIMED_OUT}, 1.0), quantile(counts, 0.99)
    wanted_s = 2 * max((timeout_s or 0.0) * factor, longest_s or 0.0) if p99_s is None else margin * p99_s
    enough = handled + timed_out >= ENOUGH and wanted_s > 0
    suggested_s = _rounded_up(wanted_s / factor) if enough else None
    return Suggestion(task, handled, timed_out, quantile(counts, 0.5), p99_s, longest_s, timeout_s, suggested_s)


def _rounded_up(seconds: float) -> float:
    """At least this many seconds, with two digits."""
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return round(math.ceil(seconds / step - 1e-9) * step, 6)
