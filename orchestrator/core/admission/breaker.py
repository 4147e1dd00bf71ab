"""The circuit breaker's transitions, as pure functions of its state, the event and the time.

Eager mode calls them; ``breaker.lua`` has the same rules for Redis, where the state is shared. A test drives both with
the same steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from orchestrator.core.admission.flow_policy import Breaker
from orchestrator.core.clock import to_ms
from orchestrator.core.deliveries.outcome import Reason

#: Reasons of dead letters that are not the agent's fault: the sender's, or the message was never tried.
_NOT_THE_AGENTS: Final = frozenset(
    {Reason.MALFORMED, Reason.VALIDATION, Reason.UNKNOWN_TASK, Reason.UNKNOWN_MESSAGE, Reason.EXPIRED}
)

#: A rate is taken over this many slices of the window, so that its memory is the same however much is handled. The
#: oldest slice is dropped as a whole: a rate covers the last 90 to 100 % of the window.
SLICES: Final = 10

#: The longest host's name that is told apart, in characters.
_LONGEST_HOST: Final = 64


class Phase(StrEnum):
    """Closed admits every message, open none, half-open some probes; isolated none, until somebody closes it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class Slice:
    """The attempts that ended within one slice of the window."""

    #: Counted from the beginning of the clock.
    number: int
    ended: int = 0
    failed: int = 0
    slow: int = 0


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The state of a breaker. Times are in ms, all by the same clock."""

    phase: Phase = Phase.CLOSED
    #: When the last attempts failed, oldest first; closed only, and only if a number of failures opens it.
    failed_ms: tuple[int, ...] = ()
    #: When the next probes may be sent; open and half-open only.
    until_ms: int = 0
    #: Why it was isolated; isolated only.
    why: str = ""
    #: Oldest first; closed only, and only if a rate opens it.
    slices: tuple[Slice, ...] = ()
    #: Hosts whose messages failed, and when the last one did; closed only, and only with ``callers`` > 1.
    hosts: tuple[tuple[str, int], ...] = ()
    #: Probes admitted since ``until_ms`` was set; half-open only.
    admitted: int = 0
    #: Messages handled since then or before; half-open only.
    handled: int = 0


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """The status of an agent's breaker."""

    agent: str
    phase: Phase
    #: Seconds until an open breaker lets a probe through; 0 in other phases. One whose time is over is shown half-open:
    #: it lets the next message through, and that is recorded then.
    probe_in_s: float = 0.0
    #: Why it was isolated; '' in other phases.
    why: str = ""


def shown(phase: Phase, probe_in_ms: float) -> Phase:
    """The phase to show: an open breaker whose time is over is half-open, because it admits the next send."""
    return Phase.HALF_OPEN if phase is Phase.OPEN and probe_in_ms <= 0 else phase


def asked(breaker: Breaker, state: BreakerState, now_ms: int, wanted: int = 1) -> tuple[BreakerState, int, int]:
    """A sender asks to send messages. Returns the next state, the number admitted, and the ms until it may ask again.

    These are 0 if all are admitted. If probes do not end within ``open_s``, others may be sent. How long an isolated
    breaker stays isolated is not known: its senders may ask again after ``open_s``.
    """
    if state.phase is Phase.CLOSED:
        return state, wanted, 0
    open_ms = to_ms(breaker.open_s)
    if state.phase is Phase.ISOLATED:
        return state, 0, open_ms
    wait_ms = state.until_ms - now_ms
    # A wait longer than `open_s` means that the clock was set back.
    if 0 < wait_ms <= open_ms:
        admitted = 0
        if state.phase is Phase.HALF_OPEN:
            admitted = min(wanted, max(0, breaker.probes - state.admitted))
            state = replace(state, admitted=state.admitted + admitted)
    else:
        wait_ms = open_ms
        admitted = min(wanted, breaker.probes)
        state = BreakerState(Phase.HALF_OPEN, until_ms=now_ms + open_ms, admitted=admitted, handled=state.handled)
    return state, admitted, 0 if admitted == wanted else wait_ms


def failed(breaker: Breaker, state: BreakerState, now_ms: int, host: str = "") -> BreakerState:
    """The state after a failed attempt of a message that was sent from ``host``."""
    if state.phase in (Phase.OPEN, Phase.ISOLATED):
        return state
    if state.phase is Phase.HALF_OPEN:
        return _opened(breaker, now_ms)
    since_ms = now_ms - to_ms(breaker.window_s)
    if breaker.failures is not None:
        recent = (*(at for at in state.failed_ms if since_ms < at <= now_ms), now_ms)
        state = replace(state, failed_ms=recent[-breaker.failures :])
    if breaker.callers > 1:
        others = ((name, at) for name, at in state.hosts if name != host and since_ms < at <= now_ms)
        state = replace(state, hosts=(*others, (host, now_ms))[-breaker.callers :])
    return _counted(breaker, state, now_ms, failed=1)


def succeeded(breaker: Breaker, state: BreakerState, now_ms: int, *, slow: bool = False) -> BreakerState:
    """The state after a handled message, which took longer than ``slow_s`` if it is ``slow``."""
    if state.phase is Phase.CLOSED:
        return _counted(breaker, state, now_ms, slow=int(slow))
    if state.phase is not Phase.HALF_OPEN:
        return state
    if slow and breaker.slow_rate is not None:
        return _opened(breaker, now_ms)
    if state.handled + 1 >= breaker.probes:
        return BreakerState()
    return replace(state, handled=state.handled + 1)


def isolated(why: str) -> BreakerState:
    """The state of a breaker that somebody keeps open by hand, whatever its state was."""
    return BreakerState(Phase.ISOLATED, why=why)


def counts_as_failure(reason: str) -> bool:
    """Whether a delivery that ended as dead for this reason counts as a failure of its agent."""
    return reason not in _NOT_THE_AGENTS


def host_of(origin: object) -> str:
    """The host in the header ``origin`` of a message, such as ``gen4711@web-1``; '' if there is none."""
    _, at, host = origin.partition("@") if isinstance(origin, str) else ("", "", "")
    return re.sub(r"[^!-~]", "_", host)[:_LONGEST_HOST] if at else ""


def _opened(breaker: Breaker, now_ms: int) -> BreakerState:
    return BreakerState(Phase.OPEN, until_ms=now_ms + to_ms(breaker.open_s))


def _counted(breaker: Breaker, state: BreakerState, now_ms: int, failed: int = 0, slow: int = 0) -> BreakerState:
    """The state of a closed breaker with one more attempt counted; open if that is one too many."""
    if breaker.has_rate:
        slice_ms = max(1, -(-to_ms(breaker.window_s) // SLICES))
        number = now_ms // slice_ms
        kept = [one for one in state.slices if number - SLICES < one.number <= number]
        last = kept.pop() if kept and kept[-1].number == number else Slice(number)
        kept.append(Slice(number, last.ended + 1, last.failed + failed, last.slow + slow))
        state = replace(state, slices=tuple(kept))
    ended, failures, slow_ones = (sum(getattr(s, name) for s in state.slices) for name in ("ended", "failed", "slow"))
    enough = ended >= breaker.least
    too_slow = enough and breaker.slow_rate is not None and slow_ones >= breaker.slow_rate * ended
    too_many = breaker.failures is not None and len(state.failed_ms) >= breaker.failures
    if enough and breaker.failure_rate is not None and failures >= breaker.failure_rate * ended:
        too_many = True
    # Slow calls are the agent's, whoever sent them.
    if too_slow or (too_many and (breaker.callers == 1 or _hosts_within(breaker, state, now_ms) >= breaker.callers)):
        return _opened(breaker, now_ms)
    return state


def _hosts_within(breaker: Breaker, state: BreakerState, now_ms: int) -> int:
    since_ms = now_ms - to_ms(breaker.window_s)
    return sum(since_ms < at <= now_ms for _, at in state.hosts)
