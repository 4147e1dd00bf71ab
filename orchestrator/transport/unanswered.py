"""A publish whose answer was lost, remembered until its thread publishes again: trying again makes no second message.

Each connection writes down in Redis the token of its last publish, in the step that accepts the message. A publish with
a token that is written there already has been done. So whoever tries again (the connection itself, once; then kombu,
after a pause and over another one) has to come with the token and the key of the first try.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """A publish as Redis knows it again."""

    #: Where its connection writes down its last publish.
    key: str
    token: str


class Unanswered(threading.local):
    """The publish of this thread whose answer was lost, if that was its last."""

    _said: tuple[Hashable, Attempt] | None = None

    def attempt(self, said: Hashable, key: str) -> Attempt:
        """How to publish what is ``said``: as before, if the answer to just that was lost, else as something new."""
        before, self._said = self._said, None
        if before is not None and before[0] == said:
            return before[1]
        return Attempt(key, os.urandom(12).hex())

    def lost(self, said: Hashable, attempt: Attempt) -> None:
        """There was no answer to that."""
        self._said = said, attempt
