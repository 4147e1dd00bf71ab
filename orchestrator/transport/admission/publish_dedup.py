"""A publish whose answer was lost, remembered until its thread publishes again: trying again makes no second message.

The step that accepts a message records the publish's token as its connection's last. A publish with a token that is
recorded already has been done. So a repeated publish (by the connection itself, once; then kombu, after a pause and
over another one) has to come with the token and the key of the first try.

The tokens of all connections of one period lie in one hash, which expires: short-lived clients leave no key each.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Hashable
from typing import Final

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt

#: For how long a hash of last publishes is written to. It is kept for three times as long after the last connection
#: has entered it (see ``publish.lua``).
PERIOD_S: Final = 300


def publishes_now(keys: Keys) -> str:
    """The hash of this period's last publishes."""
    return keys.last_publishes(int(time.time() // PERIOD_S))


def new_attempt(keys: Keys, caller: str = "") -> Attempt:
    """An attempt at a call, by which the scripts recognise it when it is repeated.

    ``caller``: whose last call Redis records. Without it, the call itself is recorded; for rare calls only.
    """
    return Attempt(publishes_now(keys), caller + os.urandom(8).hex())


class Callers:
    """A 16-character name for each thread, as connections have. Redis keeps the last call of each name.

    A thread that has ended leaves its name to a later one: there are as many as there were threads at once.
    """

    def __init__(self) -> None:
        self._pid, self._number = 0, 0

    def here(self) -> str:
        """The name of this thread."""
        if self._pid != os.getpid():
            # The first call, or the first one in a forked child.
            self._number, self._pid = int.from_bytes(os.urandom(8)), os.getpid()
        return f"{self._number ^ threading.get_ident():016x}"

    def attempt(self, keys: Keys) -> Attempt:
        """An attempt at a call of this thread."""
        return new_attempt(keys, self.here())


class Unanswered(threading.local):
    """The publish of this thread whose answer was lost, if that was its last."""

    _said: tuple[Hashable, Attempt] | None = None

    def attempt(self, said: Hashable, keys: Keys, connection: str) -> Attempt:
        """The attempt by which to publish ``said``: the earlier one if its answer was lost, else a new one."""
        before, self._said = self._said, None
        if before is not None and before[0] == said:
            return before[1]
        return new_attempt(keys, connection)

    def lost(self, said: Hashable, attempt: Attempt) -> None:
        """There was no answer to that."""
        self._said = said, attempt
