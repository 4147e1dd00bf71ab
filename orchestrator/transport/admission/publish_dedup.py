"""A publish whose answer was lost, remembered until its thread publishes again: trying again makes no second message.

The step that accepts a message records the publish's token as its connection's last. A publish with a token that is
recorded already has been done. So a repeated publish (by the connection itself, once; then kombu, after a pause and
over another one) has to come with the token and the key of the first try.

The tokens of all connections of one period lie in one hash, which expires: short-lived clients leave no key each.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.lost_answers import new_attempt


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
