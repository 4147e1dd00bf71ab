"""Flow control in eager mode: breakers and idempotency keys as in Redis, in memory. Mailboxes never fill there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from orchestrator.core.admission import breaker
from orchestrator.core.admission.breaker import BreakerState, BreakerStatus, Phase
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.clock import to_ms
from orchestrator.core.errors import CircuitOpen
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.telemetry import emit, events

#: All senders of eager mode are in one process.
_HOST: Final = "eager"


def _now_ms() -> int:
    return to_ms(time.time())


def _recipient(message: OutgoingMessage, key: str) -> tuple[str, str, str]:
    agent = message.supervision.agent
    return (agent, "", key) if agent else ("", message.task, key)


class EagerFlowControl:
    """Breakers and idempotency keys of one process. On a broker, Redis keeps both."""

    def __init__(self, flow: Callable[[str], Flow]) -> None:
        self._flow = flow
        self._breakers: dict[str, BreakerState] = {}
        self._first_sends: dict[tuple[str, str, str], tuple[str, int | None]] = {}
        self._lock = threading.RLock()

    def duplicate_of(self, message: OutgoingMessage) -> str | None:
        """The delivery that a message's idempotency key stands for; ``None`` if it is this message's from now on."""
        supervision = message.supervision
        if supervision.idempotency is None:
            return None
        key = _recipient(message, supervision.idempotency[0])
        with self._lock:
            first = self._first_sends.get(key)
            if first is not None and (first[1] is None or _now_ms() < first[1]):
                return first[0]
            self._first_sends[key] = message.id, None
        return None

    def forget(self, message: OutgoingMessage) -> None:
        """Free a message's idempotency key, because the message was refused."""
        supervision = message.supervision
        if supervision.idempotency is not None:
            with self._lock:
                self._first_sends.pop(_recipient(message, supervision.idempotency[0]), None)

    def ended(self, message: OutgoingMessage) -> None:
        """Start the time to live of a message's idempotency key, because the message has its outcome."""
        supervision = message.supervision
        if supervision.idempotency is not None:
            key, ttl_ms = supervision.idempotency
            with self._lock:
                self._first_sends[_recipient(message, key)] = message.id, _now_ms() + ttl_ms

    def admit(self, agent: str, *, peek: bool = False) -> None:
        """Ask an agent's breaker whether a message may be sent. With ``peek``, its state is not changed.

        Raises:
            CircuitOpen: it is open.
        """
        policy = self._flow(agent).breaker
        if policy is None:
            return
        with self._lock:
            state, admitted, wait_ms = breaker.asked(policy, self._state(agent), _now_ms())
            if not admitted:
                raise CircuitOpen(agent, wait_ms / 1000, state.why if state.phase is Phase.ISOLATED else None)
            if not peek:
                self._change(agent, state)

    def room(self, agent: str) -> int | None:
        """The number of messages that an agent's breaker admits now; ``None`` for any number."""
        policy = self._flow(agent).breaker
        if policy is None:
            return None
        try:
            self.admit(agent, peek=True)
        except CircuitOpen:
            return 0
        with self._lock:
            is_closed = self._state(agent).phase is Phase.CLOSED
        return None if is_closed else policy.probes

    def failed(self, agent: str, reason: str = "") -> None:
        """Record a failed attempt; ``reason`` is the outcome's, if it was the last one."""
        policy = self._flow(agent).breaker
        if policy is not None and breaker.counts_as_failure(reason):
            with self._lock:
                self._change(agent, breaker.failed(policy, self._state(agent), _now_ms(), _HOST))

    def handled(self, agent: str, took_s: float) -> None:
        """Record that a message was handled, and how long that took."""
        policy = self._flow(agent).breaker
        if policy is not None:
            slow = policy.slow_s is not None and took_s > policy.slow_s
            with self._lock:
                self._change(agent, breaker.succeeded(policy, self._state(agent), _now_ms(), slow=slow))

    def close(self, agent: str) -> bool | None:
        """Close an agent's breaker by hand. Returns whether it was not closed; ``None`` if the agent has none."""
        if self._flow(agent).breaker is None:
            return None
        with self._lock:
            was_closed = self._state(agent).phase is Phase.CLOSED
            self._change(agent, BreakerState())
        return not was_closed

    def isolate(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker. Returns whether it was not isolated; ``None`` if the agent has none."""
        if self._flow(agent).breaker is None:
            return None
        with self._lock:
            was_isolated = self._state(agent).phase is Phase.ISOLATED
            self._change(agent, breaker.isolated(why))
        return not was_isolated

    def status(self, agent: str) -> BreakerStatus | None:
        """The status of an agent's breaker; ``None`` if it has none."""
        if self._flow(agent).breaker is None:
            return None
        with self._lock:
            state = self._state(agent)
        probe_in_ms = max(0, state.until_ms - _now_ms()) if state.phase is Phase.OPEN else 0
        return BreakerStatus(agent, breaker.shown(state.phase, probe_in_ms), probe_in_ms / 1000, state.why)

    def _state(self, agent: str) -> BreakerState:
        return self._breakers.get(agent, BreakerState())

    def _change(self, agent: str, state: BreakerState) -> None:
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
            case Phase.ISOLATED:
                emit(events.BREAKER_ISOLATED, agent=agent, why=state.why)
