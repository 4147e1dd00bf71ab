"""The scripts of overridden timeouts, and of run times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.core.keys import RUN_TIME_DAYS, Keys
from orchestrator.transport.redis.commands.call import Attempt, Call


def override_timeout(
    keys: Keys, name: str, timeout_s: float, *, ttl_ms: int, by: str, most: int, attempt: Attempt
) -> Call:
    """Override the timeout of a name for ``ttl_ms``, unless there are ``most`` overrides."""
    args = [name, repr(float(timeout_s)), ttl_ms, by, most, attempt.token]
    return "override_timeout", [keys.timeout_overrides, attempt.key], args


def clear_timeouts(keys: Keys, attempt: Attempt, names: Iterable[str] = ()) -> Call:
    """End the overrides of these names, or of all."""
    return "clear_timeouts", [keys.timeout_overrides, attempt.key], [attempt.token, *names]


def add_run_times(keys: Keys, counts: Mapping[tuple[str, int], int]) -> Call:
    """Add to the counts of how long attempts took: task and bucket -> attempts."""
    flat = [part for (task, bucket), count in counts.items() for part in (task, bucket, count)]
    return "add_run_times", [], [keys.root, RUN_TIME_DAYS, *flat]
