"""Flow control as an agent declares it: the bound of its mailbox, and its circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.numbers import check_number, check_whole_number

#: The highest bound of a mailbox, in messages.
MAX_LIMIT: Final = 100_000_000

_A_DAY_S: Final = 24 * 3600.0


class Overflow(StrEnum):
    """What happens when a message is sent to a full mailbox."""

    REJECT = "reject"
    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A bound on the messages that wait for an agent: unclaimed ones, and those not yet due.

    A message is counted when it is accepted. An accepted message is never refused later: retries, messages requeued
    from a dead worker and messages that fall due enter a full mailbox. ``overflow`` says what happens to a new message:
    its sender gets an error, at once (``reject``) or after waiting ``block_s`` seconds for room (``block``); or the
    message that has waited longest (``drop_oldest``) or the new one (``drop_newest``) is dropped and becomes a dead
    letter. ``warn_at`` is the share of ``limit`` at which an event is emitted.

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
        """The number of waiting messages from which an event is emitted."""
        return max(1, ceil(self.limit * self.warn_at))


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker of an agent, shared by all senders.

    ``failures`` failed attempts within ``window_s`` seconds open it, and sends are refused. ``open_s`` seconds
    later one message is admitted as a probe; its end closes the breaker or opens it again. After M. Nygard,
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
    """The flow control of one agent; none if both are ``None``."""

    mailbox: Mailbox | None = None
    breaker: Breaker | None = None

    @property
    def declared(self) -> bool:
        """Whether a bound or a breaker is declared."""
        return self.mailbox is not None or self.breaker is not None
