"""`Delivery`: what a sender has in hand after a send."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from orchestrator.core.errors import BrokerUnavailable, DeliveryTimeout, InvalidPolicy, SendFailed
from orchestrator.core.outcome import Handled, Outcome, from_wire
from orchestrator.core.policy import OnError
from orchestrator.telemetry import tracing
from orchestrator.transport.store import Store

#: Longest single wait in Redis; shorter than the client's socket timeout.
_SLICE_S = 2.0

#: Longest wait that may be asked for: a day.
_MAX_WAIT_S = 24 * 3600.0

#: Waits up to so many seconds for a recorded outcome; ``None`` if there is none by then.
Awaiter = Callable[[str, float], Outcome | None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One accepted message on its way."""

    id: str
    agent: str
    message: str
    on_error: OnError
    _await: Awaiter

    def outcome(self) -> Outcome | None:
        """The recorded outcome, or ``None`` while the delivery is pending (or its record has expired).

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._await(self.id, 0)

    def wait(self, timeout_s: float) -> Outcome:
        """Wait for the outcome.

        Raises:
            DeliveryTimeout: there is none after ``timeout_s`` seconds; the delivery goes on.
            SendFailed: it was sent with ``on_error="raise"`` and was not handled.
            BrokerUnavailable: Redis is away.
        """
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= _MAX_WAIT_S:
            raise InvalidPolicy("timeout_s", timeout_s, f"a number above 0, at most {_MAX_WAIT_S:g}")
        with tracing.span(f"wait {self.agent}.{self.message}", "CLIENT", id=self.id):
            outcome = self._await(self.id, timeout_s)
        if outcome is None:
            raise DeliveryTimeout(self.id, timeout_s)
        if self.on_error is OnError.RAISE and not isinstance(outcome, Handled):
            raise SendFailed(self.id, outcome)
        return outcome


def await_in(store: Store) -> Awaiter:
    """Waits on the list of one element that the settling script leaves; it stays for the next who asks."""

    def wait(delivery_id: str, timeout_s: float) -> Outcome | None:
        key = store.keys.outcome(delivery_id)
        until = monotonic() + timeout_s
        try:
            raw: Any = store.client.lindex(key, 0)
            while raw is None and (left := until - monotonic()) > 0:
                slice_s: Any = max(0.01, min(left, _SLICE_S))  # redis-py says int; Redis takes fractions
                raw = store.client.blmove(key, key, slice_s, "LEFT", "LEFT")
        except RedisError as error:
            raise BrokerUnavailable(store.url, error) from error
        return None if raw is None else from_wire(json.loads(raw))

    return wait
