"""Flow control as an agent declares it: how much its mailbox holds, and when senders are to leave it alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.numbers import check_number, check_whole_number

#: Most messages a bound may allow; more is no bound.
MAX_LIMIT: Final = 100_000_000

_A_DAY_S: Final = 24 * 3600.0


class Overflow(StrEnum):
    """What becomes of a message that a full mailbox is sent."""

    REJECT = "reject"
    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A bound on what waits for an agent: messages that no worker has claimed yet, and those not yet due.

    A message counts when it is accepted. What was accepted is never refused later: retries, messages taken back
    from a dead worker and messages that fall due pass a full mailbox. ``overflow`` says what a new message meets:
    an error (``reject``), an error after waiting ``block_s`` seconds for room (``block``), or a place for it at the
    cost of the message that has waited longest (``drop_oldest``) or of itself (``drop_newest``); what is dropped
    becomes a dead letter. ``warn_at`` is the share of ``limit`` at which an event warns.

    Raises:
        InvalidPolicy: a value is out of range.
    """

    limit: int
    overflow: Overflow | str = Overflow.REJECT
    block_s: float = 10.0
    warn_at: float = 0.8

    def __post_init__(self) -> None:
        check_whole_number("limit", self.limit, 1, MAX_LIMIT)
        try:
            object.__setattr__(self, "overflow", Overflow(self.overflow))
        except ValueError:
            raise InvalidPolicy("overflow", self.overflow, ", ".join(Overflow)) from None
        check_number("block_s", self.block_s, 0.001, 3600)
        check_number("warn_at", self.warn_at, 0.01, 1)

    @property
    def warn_from(self) -> int:
        """How many waiting messages are worth a warning."""
        return max(1, ceil(self.limit * self.warn_at))


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker before an agent, shared by all its senders.

    ``failures`` failed attempts within ``window_s`` seconds open it, and sends are refused. ``open_s`` seconds
    later one message is let through as a probe; how it ends closes the breaker or opens it again. After M. Nygard,
    *Release It!* (2007), "Circuit Breaker".

    Raises:
        InvalidPolicy: a value is out of range.
    """

    failures: int = 5
    window_s: float = 30.0
    open_s: float = 10.0

    def __post_init__(self) -> None:
        check_whole_number("failures", self.failures, 1, 1000)
        check_number("window_s", self.window_s, 0.001, _A_DAY_S)
        check_number("open_s", self.open_s, 0.001, _A_DAY_S)


@dataclass(frozen=True, slots=True)
class Flow:
    """What applies to one agent; nothing, if both are ``None``."""

    mailbox: Mailbox | None = None
    breaker: Breaker | None = None

    @property
    def declared(self) -> bool:
        """Whether there is anything to enforce."""
        return self.mailbox is not None or self.breaker is not None
