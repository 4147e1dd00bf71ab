"""Redis' clock in a test's hands: scripts that read the time from a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from orchestrator.transport.redis.scripts import command, resolve
from tests.support.changed_scripts import changed_scripts
from tests.support.patient_redis import patient_redis

KEY: Final = "test:now"

TRANSPORT: Final = "orchestrator.transport.redis"

CLOCK = f"local function now_ms() return tonumber(redis.call('GET', '{KEY}')) end\n".encode()


class TimedScripts:
    """Runs a package's scripts, and the transport's, by the time that :meth:`set` sets."""

    def __init__(self, redis: Any, package: str = TRANSPORT) -> None:
        self._redis, self._package = redis, package
        self._shas: dict[str, str] = {}

    def set(self, now_ms: int) -> None:
        """It is so late."""
        self._redis.set(KEY, now_ms)

    def run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run one of the commands."""
        if name not in self._shas:
            self._shas[name] = self._redis.script_load(self._text(name))
        return self._redis.evalsha(self._shas[name], len(keys), *keys, *args)

    def run_text(self, name: str, text: bytes, keys: list[str], args: list[Any]) -> Any:
        """Run a script of this text, includes and all; a name always has the same text."""
        if name not in self._shas:
            self._shas[name] = self._redis.script_load(timed(text))
        return self._redis.evalsha(self._shas[name], len(keys), *keys, *args)

    def _text(self, name: str) -> bytes:
        try:
            return timed(command(name, self._package), self._package)
        except FileNotFoundError:
            return timed(command(name))


@contextmanager
def driving(machine: Any, url: str, package: str = TRANSPORT) -> Iterator[None]:
    """A state machine drives a package's scripts on this Redis, by the time that it sets."""
    machine.redis = patient_redis(url)
    machine.scripts = TimedScripts(machine.redis, package)
    try:
        yield
    finally:
        machine.redis.close()


def timed(text: bytes, package: str = TRANSPORT) -> bytes:
    """A script of a package, with its includes, that reads the time from a key."""
    return resolve(text, package, {"clock": CLOCK})


@contextmanager
def clock_in_a_key() -> Iterator[None]:
    """All scripts, however they are run, read the time from a key."""
    with changed_scripts(lambda name, text: CLOCK if name == "clock" else text):
        yield
