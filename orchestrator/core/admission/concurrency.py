"""Limits how many messages of an agent run at a time over all of its workers: the policy, and the rule of lanes.

A claimed message of such an agent has a permit of its key; further messages of that key wait in a lane, in order. A
message that is requeued keeps its permit, one that ends or is retried gives it to the next in its lane.
``transport/redis/lua/includes/lanes.lua`` is the same rule over Redis; one state machine drives both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.checks.numbers import check_whole_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_options

#: Messages of one key that may run at a time, at most.
MOST_AT_ONCE: Final = 10_000

_LONGEST_FIELD: Final = 100


@named_options
@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most ``limit`` messages run at a time over all workers: of the agent, or with a ``key`` of each value of it.

    ``key`` is a field of the messages, such as ``"tenant"``. Messages without that field share one lane.

    Raises:
        InvalidPolicy: a value is not allowed.
    """

    limit: int
    key: str = ""

    def __post_init__(self) -> None:
        check_whole_number("limit", self.limit, 1, MOST_AT_ONCE)
        is_name = isinstance(self.key, str) and len(self.key) <= _LONGEST_FIELD
        if not is_name or (self.key and not self.key.isidentifier()):
            raise InvalidPolicy("key", self.key, "the name of a field, or '' for the agent as a whole")


@dataclass(slots=True)
class Lanes:
    """The permits and lanes of one agent. A message that is requeued stays the same one, and keeps its permit."""

    limit: int
    #: Message -> its key.
    permits: dict[str, str] = field(default_factory=dict)
    #: Key -> messages that wait, in order.
    waiting: dict[str, list[str]] = field(default_factory=dict)

    def used(self, key: str) -> int:
        """The number of permits of a key that are in use."""
        return sum(one == key for one in self.permits.values())

    def claim(self, message: str, key: str) -> bool:
        """Whether a message that is claimed may run; else it waits in its lane."""
        if message in self.permits:
            return True
        if self.waiting.get(key) or self.used(key) >= self.limit:
            self.waiting.setdefault(key, []).append(message)
            return False
        self.permits[message] = key
        return True

    def ended(self, message: str) -> list[str]:
        """A message has ended, is retried or is nowhere any more; returns the messages that are let go."""
        key = self.permits.pop(message, None)
        return [] if key is None else self.let_go(key)

    def let_go(self, key: str) -> list[str]:
        """Give the permits of a key that are free to the first in its lane."""
        lane = self.waiting.get(key, [])
        going = lane[: max(0, self.limit - self.used(key))]
        self.waiting[key] = lane[len(going) :]
        self.permits.update(dict.fromkeys(going, key))
        return going
