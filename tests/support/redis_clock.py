"""Redis' clock in a test's hands: scripts that read the time from a key."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.transport.redis.scripts import command, resolve

KEY: Final = "test:now"

CLOCK = f"local function now_ms() return tonumber(redis.call('GET', '{KEY}')) end\n".encode()


class TimedScripts:
    """Runs the transport's own scripts by the time that :meth:`set` sets."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._shas: dict[str, str] = {}

    def set(self, now_ms: int) -> None:
        """It is so late."""
        self._redis.set(KEY, now_ms)

    def run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run one of the transport's commands."""
        return self.run_text(name, command(name), keys, args)

    def run_text(self, name: str, text: bytes, keys: list[str], args: list[Any]) -> Any:
        """Run a script of this text, includes and all; a name always has the same text."""
        if name not in self._shas:
            self._shas[name] = self._redis.script_load(resolve(text, replaced={"clock": CLOCK}))
        return self._redis.evalsha(self._shas[name], len(keys), *keys, *args)
