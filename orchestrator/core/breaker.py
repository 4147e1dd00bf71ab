"""The circuit breaker's transitions, as pure functions of its state, what happened, and the time.

``breaker.lua`` is the same in Redis, where the state is shared; a test compares the two step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.core.clock import to_ms
from orchestrator.core.flow_policy import Breaker


class Phase(StrEnum):
    """Closed lets everything through, open nothing, half-open one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerState:
    """Where a breaker stands. Times in ms by one clock."""

    phase: Phase = Phase.CLOSED
    #: When the last attempts failed, oldest first; closed only.
    failed_ms: tuple[int, ...] = ()
    #: When the next probe may go; open and half-open only.
    until_ms: int = 0


def asked(breaker: Breaker, state: BreakerState, now_ms: int) -> tuple[BreakerState, int]:
    """A sender wants to send: the state after it, and 0 if it may, else how many ms until it is worth asking again.

    A probe whose end is never heard of makes room for another one after ``open_s``.
    """
    if state.phase is Phase.CLOSED:
        return state, 0
    open_ms = to_ms(breaker.open_s)
    wait_ms = state.until_ms - now_ms
    # Longer than any wait lasts: the clock has been set back.
    if 0 < wait_ms <= open_ms:
        return state, wait_ms
    return BreakerState(Phase.HALF_OPEN, until_ms=now_ms + open_ms), 0


def failed(breaker: Breaker, state: BreakerState, now_ms: int) -> BreakerState:
    """An attempt has failed."""
    if state.phase is Phase.OPEN:
        return state
    if state.phase is Phase.CLOSED:
        since_ms = now_ms - to_ms(breaker.window_s)
        recent = (*(at for at in state.failed_ms if since_ms < at <= now_ms), now_ms)
        if len(recent) < breaker.failures:
            return replace(state, failed_ms=recent)
    return BreakerState(Phase.OPEN, until_ms=now_ms + to_ms(breaker.open_s))


def succeeded(state: BreakerState) -> BreakerState:
    """A message was handled. Only when half-open does that change anything."""
    return BreakerState() if state.phase is Phase.HALF_OPEN else state
