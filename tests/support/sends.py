"""Checks of outcomes, and the pools that can interrupt a handler."""

from __future__ import annotations

from typing import Any

from orchestrator import Dead
from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.sending.delivery import Delivery

WAIT_S = 20

#: Where a handler can be interrupted.
INTERRUPTS = ("eager", "solo", "prefork")

EAGER = "in eager mode a send has ended before anything else can happen"


def became(delivery: Delivery, outcome: Outcome) -> bool:
    return delivery.outcome() == outcome


def dead(outcome: Any) -> tuple[str, str, int]:
    assert isinstance(outcome, Dead), outcome
    return outcome.reason, outcome.error.partition(":")[0], outcome.attempts
