"""The circuit breaker's transitions, as pure functions of its state, the event and the time.

Eager mode calls them; ``breaker.lua`` has the same rules for Redis, where the state is shared. A test drives both with
the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from orchestrator.core.clock import to_ms
from orchestrator.core.flow_policy import Breaker
from orchestrator.core.outcome import Reason

#: Reasons of dead letters that are not the agent's fault: the sender's, or the message was never tried.
_NOT_THE_AGENTS: Final = frozenset(
    {Reason.MALFORMED, Reason.VALIDATION, Reason.UNKNOWN_TASK, Reason.UNKNOWN_MESSAGE, Reason.EXPIRED}
)


class Phase(StrEnum):
    """Closed admits every message, open none, half-open one probe; isolated none, until somebody closes it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The state of a breaker. Times are in ms, all by the same clock."""

    phase: Phase = Phase.CLOSED
    #: When the last attempts failed, oldest first; closed only.
    failed_ms: tuple[int, ...] = ()
    #: When the next probe may be sent; open and half-open only.
    until_ms: int = 0
    #: Why it was isolated; isolated only.
    why: str = ""


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """How an agent's breaker stands."""

    agent: str
    phase: Phase
    #: Seconds until an open breaker lets a probe through; 0 in other phases.
    probe_in_s: float = 0.0
    #: Why it was isolated; '' in other phases.
    why: str = ""


def asked(breaker: Breaker, state: BreakerState, now_ms: int) -> tuple[BreakerState, int]:
    """A sender asks to send a message. Returns the next state and 0 if it may, else the ms until it may ask again.

    If a probe does not end within ``open_s``, another one may be sent. How long an isolated breaker stays isolated is
    not known: its senders may ask again after ``open_s``.
    """
    if state.phase is Phase.CLOSED:
        return state, 0
    open_ms = to_ms(breaker.open_s)
    if state.phase is Phase.ISOLATED:
        return state, open_ms
    wait_ms = state.until_ms - now_ms
    # A wait longer than `open_s` means that the clock was set back.
    if 0 < wait_ms <= open_ms:
        return state, wait_ms
    return BreakerState(Phase.HALF_OPEN, until_ms=now_ms + open_ms), 0


def failed(breaker: Breaker, state: BreakerState, now_ms: int) -> BreakerState:
    """The state after a failed attempt."""
    if state.phase in (Phase.OPEN, Phase.ISOLATED):
        return state
    if state.phase is Phase.CLOSED:
        since_ms = now_ms - to_ms(breaker.window_s)
        recent = (*(at for at in state.failed_ms if since_ms < at <= now_ms), now_ms)
        if len(recent) < breaker.failures:
            return replace(state, failed_ms=recent)
    return BreakerState(Phase.OPEN, until_ms=now_ms + to_ms(breaker.open_s))


def succeeded(state: BreakerState) -> BreakerState:
    """The state after a handled message; it differs only from half-open."""
    return BreakerState() if state.phase is Phase.HALF_OPEN else state


def isolated(why: str) -> BreakerState:
    """The state of a breaker that somebody keeps open by hand, whatever its state was."""
    return BreakerState(Phase.ISOLATED, why=why)


def counts_as_failure(reason: str) -> bool:
    """Whether a delivery that ended as dead for this reason counts as a failure of its agent."""
    return reason not in _NOT_THE_AGENTS
