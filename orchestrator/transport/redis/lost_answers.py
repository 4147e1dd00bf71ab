"""Calls whose answers are lost: repeated with the token of the first one, they give its answer, and do nothing twice.

A script that changes something records its answer under the call's token, in the hash of last publishes (see
``includes/recorded_answers.lua``), and looks there before it refuses what is done already. A token lives only as long
as the call that repeats itself: what a user calls after an error is a new wish, and is answered by what it finds.

Of each thread one answer is recorded, that of its last call. So they are as many as the threads, however often these
call, and without a loss a call costs no further round trip.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt

T = TypeVar("T")

#: For how long a hash of last publishes is written to. It is kept for three times as long after the last caller has
#: entered it (see ``publish.lua``).
PERIOD_S: Final = 300


def publishes_now(keys: Keys) -> str:
    """The hash of this period's last publishes, which holds the answers to last calls too."""
    return keys.last_publishes(int(time.time() // PERIOD_S))


def new_attempt(keys: Keys, caller: str) -> Attempt:
    """An attempt at a call, by which the scripts recognise it when it is repeated; ``caller`` has 16 characters."""
    return Attempt(publishes_now(keys), caller + os.urandom(8).hex())


def again_if_lost(ask: Callable[[], T]) -> T:
    """Ask, and ask once more if the connection broke.

    Raises:
        BrokerUnavailable: Redis is away, or refused.
    """
    try:
        return ask()
    except BrokerUnavailable as error:
        if not isinstance(error.__cause__, RedisConnectionError | RedisTimeout):
            raise
    return ask()


class Callers:
    """A 16-character name for each thread, as connections have. Redis keeps the answer to the last call of each name.

    A thread that has ended leaves its name to a later one: there are as many as there were threads at once.
    """

    def __init__(self) -> None:
        self._pid, self._number = 0, 0
        #: By thread, if it has had to give up its first name.
        self._names: dict[int, str] = {}

    def here(self) -> str:
        """The name of this thread."""
        if self._pid != os.getpid():
            # The first call, or the first one in a forked child.
            self._number, self._pid = int.from_bytes(os.urandom(8)), os.getpid()
            self._names.clear()
        thread = threading.get_ident()
        return self._names.get(thread) or f"{self._number ^ thread:016x}"

    def attempt(self, keys: Keys) -> Attempt:
        """An attempt at a call of this thread."""
        return new_attempt(keys, self.here())

    def run(self, keys: Keys, command: Callable[[Attempt], T]) -> T:
        """Run a command of this thread, and once more as the same attempt if its answer was lost.

        Raises:
            BrokerUnavailable: Redis is away, or refused.
        """
        attempt = self.attempt(keys)
        return again_if_lost(lambda: command(attempt))

    def give_up_name(self) -> None:
        """Take a new name: the last call keeps the old one, because another thread will repeat it."""
        self._names[threading.get_ident()] = os.urandom(8).hex()
