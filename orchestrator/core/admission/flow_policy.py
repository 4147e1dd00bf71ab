"""Flow control as an agent declares it: the bound of its mailbox, and its circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from orchestrator.core.checks.choices import check_choice
from orchestrator.core.checks.numbers import check_number, check_whole_number, is_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_options

#: The highest bound of a mailbox, in messages.
MAX_LIMIT: Final = 100_000_000

_A_DAY_S: Final = 24 * 3600.0


class Overflow(StrEnum):
    """The treatment of a message that is sent to a full mailbox."""

    REJECT = "reject"
    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


@named_options
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
        object.__setattr__(self, "overflow", check_choice("overflow", Overflow, self.overflow))
        check_number("block_s", self.block_s, 0.001, 3600)
        check_number("warn_at", self.warn_at, 0.01, 1)

    @property
    def warn_from(self) -> int:
        """The number of waiting messages from which an event is emitted."""
        return max(1, ceil(self.limit * self.warn_at))


@named_options
@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker of an agent, shared by all senders.

    It opens, and sends are refused, when within ``window_s`` seconds ``failures`` attempts have failed; or when at
    least ``least`` attempts have ended and the share ``failure_rate`` of them failed, or the share ``slow_rate`` took
    longer than ``slow_s`` seconds. ``failures`` is 5 if no rate is given. With ``callers``, failed attempts open it
    only once the messages of that many hosts were among them: one caller's bad messages do not shut out all others.

    ``open_s`` seconds later ``probes`` messages are admitted: the breaker closes once as many are handled, and opens
    again with the first that fails or, with a ``slow_rate``, is slow. After M. Nygard, *Release It!* (2007), "Circuit
    Breaker".

    Raises:
        InvalidPolicy: a value is out of range, or one of ``slow_s`` and ``slow_rate`` is missing.
    """

    failures: int | None = None
    window_s: float = 30.0
    open_s: float = 10.0
    failure_rate: float | None = None
    least: int = 20
    slow_s: float | None = None
    slow_rate: float | None = None
    probes: int = 1
    callers: int = 1

    def __post_init__(self) -> None:
        for name in ("failure_rate", "slow_rate"):
            rate = getattr(self, name)
            if rate is not None and (not is_number(rate, 0, 1) or rate == 0):
                raise InvalidPolicy(name, rate, "a number above 0 and at most 1")
        if (self.slow_s is None) != (self.slow_rate is None):
            name = "slow_s" if self.slow_s is None else "slow_rate"
            raise InvalidPolicy(name, None, "slow_s and slow_rate together")
        if self.slow_s is not None:
            check_number("slow_s", self.slow_s, 0.001, _A_DAY_S)
        if self.failures is None and not self.has_rate:
            object.__setattr__(self, "failures", 5)
        if self.failures is not None:
            check_whole_number("failures", self.failures, 1, 1000)
        check_number("window_s", self.window_s, 0.001, _A_DAY_S)
        check_number("open_s", self.open_s, 0.001, _A_DAY_S)
        check_whole_number("least", self.least, 1, 1_000_000)
        check_whole_number("probes", self.probes, 1, 1000)
        check_whole_number("callers", self.callers, 1, 100)

    @property
    def has_rate(self) -> bool:
        """Whether a share of the attempts opens it."""
        return self.failure_rate is not None or self.slow_rate is not None


@dataclass(frozen=True, slots=True)
class Flow:
    """The flow control of one agent; none if both are ``None``."""

    mailbox: Mailbox | None = None
    breaker: Breaker | None = None

    @property
    def declared(self) -> bool:
        """Whether a bound or a breaker is declared."""
        return self.mailbox is not None or self.breaker is not None
