"""The nominal times of a schedule: its trigger's, within start and end, and with jitter."""

from __future__ import annotations

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.state import ScheduleState, jitter_ms_of
from orchestrator.core.schedules.triggers import Foreign, Times, times_of


class ScheduleTimes:
    """The nominal times of a schedule, within its start and end, and with their jitter."""

    __slots__ = ("_after_ms", "_end_ms", "_id", "_jitter_ms", "_start_ms", "_times")

    def __init__(
        self,
        definition: ScheduleDefinition,
        state: ScheduleState,
        times: Times | None = None,
        *,
        is_whole: bool = False,
    ) -> None:
        """``times`` are those of a foreign trigger. ``is_whole``: also those before the trigger was in force."""
        if times is None:
            if isinstance(definition.trigger, Foreign):
                raise TypeError("the times of a foreign trigger are computed by its schedule object")
            times = times_of(definition.trigger, state.anchor_ms)
        self._times = times
        self._id = definition.id
        self._start_ms, self._end_ms = definition.start_ms, definition.end_ms
        self._jitter_ms = round(definition.jitter_s * 1000)
        self._after_ms = 0 if is_whole else state.floor_ms

    def following(self, nominal_ms: int) -> int | None:
        """The next nominal time."""
        after_ms = max(nominal_ms, self._after_ms)
        if self._start_ms is not None and after_ms < self._start_ms:
            after_ms = self._start_ms - 1
        found = self._times.next_after(after_ms)
        return None if found is None or (self._end_ms is not None and found > self._end_ms) else found

    def due(self, nominal_ms: int) -> int:
        """The nominal time with its jitter, which is always before the next nominal time."""
        if not self._jitter_ms:
            return nominal_ms
        following = self._times.next_after(max(nominal_ms, self._after_ms))
        bound = self._jitter_ms if following is None else min(self._jitter_ms, following - nominal_ms)
        return nominal_ms + jitter_ms_of(self._id, nominal_ms, bound)

    def last_due(self, first_ms: int, at_ms: int) -> tuple[int, int]:
        """The last nominal time from ``first_ms`` on that is due at a moment, and how many are; 0 if none is.

        ``first_ms`` is one itself, even if a trigger gave it that is not in force any more.
        """
        if self.due(first_ms) > at_ms:
            return first_ms, 0
        last, count = self.last_nominal(first_ms, at_ms)
        return self.last_nominal(first_ms, last - 1) if count > 1 and self.due(last) > at_ms else (last, count)

    def last_nominal(self, first_ms: int, at_ms: int) -> tuple[int, int]:
        """The same without jitter: of the nominal times from ``first_ms``, which counts in any case, up to a moment."""
        after_ms = max(first_ms, self._after_ms)
        last = self._times.latest(at_ms if self._end_ms is None else min(at_ms, self._end_ms), after_ms)
        if last is None or last <= after_ms:
            return first_ms, 1
        return last, 1 + self._times.count(after_ms + 1, last)

    def count(self, low_ms: int, high_ms: int) -> int:
        """The number of nominal times from ``low_ms`` to ``high_ms``, both included."""
        low_ms = low_ms if self._start_ms is None else max(low_ms, self._start_ms)
        high_ms = high_ms if self._end_ms is None else min(high_ms, self._end_ms)
        return self._times.count(low_ms, high_ms) if low_ms <= high_ms else 0
