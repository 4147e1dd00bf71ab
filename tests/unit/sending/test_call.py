"""What a call makes of a reply that comes at the last moment, and of what it is told to fall back to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator import Cancelled, CancelResult, Dead, FallbackDelivery, Handled, OnError
from orchestrator.core.errors import DeliveryTimeout, InvalidPolicy, SendFailed
from orchestrator.core.outcome import Outcome
from orchestrator.sending.call import call
from orchestrator.sending.delivery import Delivery, Found
from tests.apps import agents_app


class Late:
    """A tracker of a delivery whose outcome is there when it is cancelled, and not before."""

    def __init__(self, says: CancelResult, outcome: Outcome) -> None:
        self._says = says
        self._outcome = outcome
        self.cancelled = False

    def record(self, delivery_id: str) -> Mapping[str, Any] | None:
        return None

    def find(self, queue: str, delivery_id: str) -> Found | None:
        return None

    def locate(self, delivery_id: str) -> tuple[str, Found] | None:
        return None

    def cancel(self, queue: str, delivery_id: str) -> CancelResult:
        self.cancelled = True
        return self._says

    def outcome(self, delivery_id: str, timeout_s: float) -> Outcome | None:
        return self._outcome if self.cancelled else None

    def delivery(self) -> Delivery:
        return Delivery("d1", "agent", "Message", OnError.IGNORE, self.outcome, self)


def test_a_reply_that_is_there_when_the_call_is_cancelled_is_returned() -> None:
    assert call(Late(CancelResult.TOO_LATE, Handled(7)).delivery, 0.01, None) == 7


def test_a_failure_that_is_there_then_is_told() -> None:
    with pytest.raises(SendFailed, match="no money"):
        call(Late(CancelResult.TOO_LATE, Dead("timeout", "no money")).delivery, 0.01, None)


def test_what_was_cancelled_has_no_reply() -> None:
    with pytest.raises(DeliveryTimeout):
        call(Late(CancelResult.CANCELLED, Cancelled("sender")).delivery, 0.01, None)


def test_no_fallback_is_none() -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    for fallback in (None, False):
        with pytest.raises(SendFailed):
            orchestrator.call("worker", agents_app.Broken(), timeout_s=5, fallback=fallback)
    assert isinstance(orchestrator.call("worker", agents_app.Broken(), timeout_s=5, fallback={}), FallbackDelivery)
    for wrong in (0, "yes", ()):
        with pytest.raises(InvalidPolicy, match="fallback="):
            orchestrator.call("worker", agents_app.Broken(), timeout_s=5, fallback=wrong)  # type: ignore[arg-type]
