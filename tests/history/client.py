"""A process that acquires leases, leads and increments, and writes down what it did: it may be killed at any moment.

``python -m tests.history.client URL FILE NAME PROXY`` appends a line for each call and each return to FILE, by the
monotonic clock, which all processes of the machine share.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import redis

from orchestrator import InfrastructureError, LeaseTaken, Orchestrator
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
        self.orchestrator: Orchestrator = make(through)
        #: What is guarded is reached without the proxy: it is another system.
        self.storage: Any = redis.Redis.from_url(url)
        self.name = name
        self._file = file.open("a", buffering=1)
        self._numbers = iter(range(1 << 30))

    def note(self, **fields: Any) -> None:
        """Write a line down; it is the kernel's before anything else happens."""
        self._file.write(json.dumps({"process": self.name, "at": monotonic(), **fields}) + "\n")
        self._file.flush()

    def call(self, name: str, act: str, argument: Any = None) -> int:
        """Write down that an operation begins; returns its number."""
        number = next(self._numbers)
        self.note(number=number, name=name, act=act, argument=argument)
        return number

    def run(self) -> None:
        """Go on until killed."""
        while True:
            try:
                with self.orchestrator.monitors.session():
                    while True:
                        self.once()
            except InfrastructureError:
                # Fenced, or cut off: begin again as another session.
                threading.Event().wait(0.05)

    def once(self) -> None:
        """Hold something for a moment."""
        what = random.choice(("lease", "semaphore", "election"))
        of: Any = self.orchestrator
        match what:
            case "lease":
                held, name = of.lease("lease", wait_s=2), "lease"
            case "semaphore":
                held, name = of.semaphore("semaphore", 2).acquire(wait_s=2), "semaphore"
            case _:
                held, name = None, "election"
        number = self.call(name, "campaign" if held is None else "acquire")
        try:
            held = of.election("election").campaign(wait_s=2) if held is None else held.acquire()
        except LeaseTaken:
            self.note(number=number, result="taken")
            return
        self.note(number=number, result=held.fence)
        if what == "lease":
            self.increment("checked", held.fence)
            self.increment("unchecked", held.fence)
        threading.Event().wait(random.random() * 0.03)
        release = self.call(name, "resign" if what == "election" else "release", held.fence)
        if held.release():
            self.note(number=release, result=None)

    def increment(self, name: str, fence: int) -> None:
        """Read and write, as a handler does under a lease; with the token, or without."""
        number = self.call(name, "increment", fence)
        key, is_checked = f"test:{name}", name == "checked"
        value = self._checked(key, fence, "") if is_checked else int(self.storage.hget(key, "value") or 0)
        # Whoever is stopped, is stopped here.
        threading.Event().wait(random.random() * 0.02)
        if not is_checked:
            self.storage.hset(key, "value", value + 1)
        elif value < 0 or self._checked(key, fence, value + 1) < 0:
            self.note(number=number, result="refused")
            return
        self.note(number=number, result=value + 1)

    def _checked(self, key: str, fence: int, value: Any) -> int:
        return int(self.storage.eval(_CHECKED, 1, key, fence, value))


if __name__ == "__main__":
    url, file, name, through = sys.argv[1:]
    Client(url, Path(file), name, through).run()
