"""The scripts of overridden timeouts."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands.call import Call


def override_timeout(keys: Keys, name: str, timeout_s: float, *, ttl_ms: int, by: str, most: int) -> Call:
    """Override the timeout of a name for ``ttl_ms``, unless there are ``most`` overrides."""
    return "override_timeout", [keys.timeout_overrides], [name, repr(float(timeout_s)), ttl_ms, by, most]


def clear_timeouts(keys: Keys, names: Iterable[str] = ()) -> Call:
    """End the overrides of these names, or of all."""
    return "clear_timeouts", [keys.timeout_overrides], list(names)
