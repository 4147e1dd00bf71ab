"""Redis' clock in a test's hands: scripts that read the time from a key."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.transport.redis.scripts import body

KEY: Final = "test:now"

_CLOCK = f"local function now_ms() return tonumber(redis.call('GET', '{KEY}')) end\n"


class TimedScripts:
    """Runs the transport's own scripts by the time that :meth:`set` sets."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._shas: dict[str, str] = {}

    def set(self, now_ms: int) -> None:
        """It is so late."""
        self._redis.set(KEY, now_ms)

    def run(self, name: str, keys: list[str], args: list[Any], more: str = "") -> Any:
        """Run a script; ``more`` is Lua after its end, for those that only define functions."""
        if name not in self._shas:
            self._shas[name] = self._redis.script_load(_CLOCK + body(name).decode() + more)
        return self._redis.evalsha(self._shas[name], len(keys), *keys, *args)
