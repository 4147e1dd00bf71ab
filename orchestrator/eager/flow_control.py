"""Flow control in eager mode: breakers and idempotency keys as in Redis, in memory. Mailboxes never fill there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from orchestrator.core import breaker
from orchestrator.core.breaker import BreakerState, Phase
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import CircuitOpen
from orchestrator.core.flow_policy import Flow
from orchestrator.core.outcome import Reason
from orchestrator.sending.publish import OutgoingMessage
from orchestrator.telemetry import emit, events

#: Nothing about these is the agent's fault (as in ``breaker.lua``).
_NOT_THE_AGENTS = (
    Reason.MALFORMED,
    Reason.VALIDATION,
    Reason.UNKNOWN_TASK,
    Reason.UNKNOWN_MESSAGE,
    Reason.EXPIRED,
)


def _now_ms() -> int:
    return to_ms(time.time())


def _recipient(parcel: OutgoingMessage, key: str) -> tuple[str, str, str]:
    agent = parcel.supervision.agent
    return (agent, "", key) if agent else ("", parcel.task, key)


class EagerFlowControl:
    """What Redis keeps of flow control, for one process."""

    def __init__(self, flow: Callable[[str], Flow]) -> None:
        self._flow = flow
        self._breakers: dict[str, BreakerState] = {}
        self._first: dict[tuple[str, str, str], tuple[str, int | None]] = {}
        self._lock = threading.RLock()

    def duplicate_of(self, parcel: OutgoingMessage) -> str | None:
        """The delivery that was sent under a parcel's idempotency key before, if one was; else it is this one."""
        supervision = parcel.supervision
        if supervision.once is None:
            return None
        key = _recipient(parcel, supervision.once[0])
        with self._lock:
            first = self._first.get(key)
            if first is not None and (first[1] is None or _now_ms() < first[1]):
                return first[0]
            self._first[key] = parcel.id, None
        return None

    def forget(self, parcel: OutgoingMessage) -> None:
        """A parcel was refused after all."""
        supervision = parcel.supervision
        if supervision.once is not None:
            with self._lock:
                self._first.pop(_recipient(parcel, supervision.once[0]), None)

    def ended(self, parcel: OutgoingMessage) -> None:
        """A parcel has its outcome; from now on its idempotency key grows old."""
        supervision = parcel.supervision
        if supervision.once is not None:
            key, ttl_ms = supervision.once
            with self._lock:
                self._first[_recipient(parcel, key)] = parcel.id, _now_ms() + ttl_ms

    def admit(self, agent: str, *, peek: bool = False) -> None:
        """Ask an agent's breaker. Who only wants to ``peek`` changes nothing.

        Raises:
            CircuitOpen: it is open.
        """
        policy = self._flow(agent).breaker
        if policy is None:
            return
        with self._lock:
            state, wait_ms = breaker.asked(policy, self._state(agent), _now_ms())
            if wait_ms:
                raise CircuitOpen(agent, wait_ms / 1000)
            if not peek:
                self._turn(agent, state)

    def failed(self, agent: str, reason: str = "") -> None:
        """An attempt has failed; ``reason`` is the outcome's, if it was the last one."""
        policy = self._flow(agent).breaker
        if policy is not None and reason not in _NOT_THE_AGENTS:
            with self._lock:
                self._turn(agent, breaker.failed(policy, self._state(agent), _now_ms()))

    def handled(self, agent: str) -> None:
        """A message was handled."""
        with self._lock:
            self._turn(agent, breaker.succeeded(self._state(agent)))

    def close(self, agent: str) -> bool | None:
        """Close an agent's breaker by hand: whether it was not closed; ``None`` if there is none."""
        if self._flow(agent).breaker is None:
            return None
        with self._lock:
            was_closed = self._state(agent).phase is Phase.CLOSED
            self._turn(agent, BreakerState())
        return not was_closed

    def _state(self, agent: str) -> BreakerState:
        return self._breakers.get(agent, BreakerState())

    def _turn(self, agent: str, state: BreakerState) -> None:
        before = self._state(agent).phase
        self._breakers[agent] = state
        if state.phase is before:
            return
        match state.phase:
            case Phase.OPEN:
                emit(events.BREAKER_OPENED, agent=agent)
            case Phase.HALF_OPEN:
                emit(events.BREAKER_HALF_OPEN, agent=agent)
            case Phase.CLOSED:
                emit(events.BREAKER_CLOSED, agent=agent)
