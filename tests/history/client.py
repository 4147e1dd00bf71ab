"""A process that acquires leases, leads and increments, and writes down what it did: it may be killed at any moment.

``python -m tests.history.client URL FILE NAME PROXY`` writes its log to FILE.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path
from typing import Any

import redis

from orchestrator import InfrastructureError, LeaseTaken, Orchestrator
from tests.history.log import Log
from tests.support.coordination_under_test import make

#: A counter that is guarded: reading and writing, it refuses a token lower than one that it has seen.
_CHECKED = """
local seen = tonumber(redis.call('HGET', KEYS[1], 'fence') or 0)
if tonumber(ARGV[1]) < seen then return -1 end
redis.call('HSET', KEYS[1], 'fence', ARGV[1])
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'value', ARGV[2]) end
return tonumber(redis.call('HGET', KEYS[1], 'value') or 0)
"""


class Client:
    """One process."""

    def __init__(self, url: str, file: Path, name: str, through: str) -> None:
        self.orchestrator = self.make_orchestrator(through)
        #: What is guarded is reached without the proxy: it is another system.
        self.storage: Any = redis.Redis.from_url(url)
        self.name = name
        self.log = Log(file, name)
        self.note, self.call = self.log.note, self.log.call

    def make_orchestrator(self, url: str) -> Orchestrator:
        """The app of this process."""
        return make(url)

    def run(self) -> None:
        """Go on until killed."""
        while True:
            try:
                with self.orchestrator.monitors.session():
                    while True:
                        self.once()
            except InfrastructureError as error:
                # Fenced, or cut off: begin again as another session.
                self.note(error=f"{type(error).__name__}: {error}")
                threading.Event().wait(0.05)

    def once(self) -> None:
        """Hold something for a moment."""
        what = random.choice(("lease", "semaphore", "election"))
        of: Any = self.orchestrator
        if random.random() < 0.2:
            number = self.call("election", "leader")
            term = of.election("election").leader()
            self.note(number=number, result=None if term is None else term.number)
        number = self.call(what, "campaign" if what == "election" else "acquire")
        try:
            match what:
                case "lease":
                    held = of.lease("lease", wait_s=2).acquire()
                case "semaphore":
                    held = of.semaphore("semaphore", 2).acquire(wait_s=2)
                case _:
                    held = of.election("election").campaign(wait_s=2)
        except LeaseTaken:
            self.note(number=number, result="taken")
            return
        self.note(number=number, result=held.fence)
        if what == "lease":
            self.increment("checked", held.fence)
        threading.Event().wait(random.random() * 0.03)
        release = self.call(what, "resign" if what == "election" else "release", held.fence)
        if held.release():
            self.note(number=release, result=None)

    def increment(self, name: str, fence: int) -> None:
        """Read and write, as a handler does under a lease; with the token, or without."""
        number = self.call(name, "increment", fence)
        key, is_checked = f"test:{name}", name == "checked"
        value = self._checked(key, fence, "") if is_checked else int(self.storage.hget(key, "value") or 0)
        self.pause()
        if not is_checked:
            self.storage.hset(key, "value", value + 1)
        elif value < 0 or self._checked(key, fence, value + 1) < 0:
            self.note(number=number, result="refused")
            return
        self.note(number=number, result=value + 1)

    def pause(self) -> None:
        """Between reading and writing: whoever is stopped, is stopped here."""
        threading.Event().wait(random.random() * 0.02)

    def _checked(self, key: str, fence: int, value: Any) -> int:
        return int(self.storage.eval(_CHECKED, 1, key, fence, value))


if __name__ == "__main__":
    url, file, name, through = sys.argv[1:]
    Client(url, Path(file), name, through).run()
