"""The budget of retries and hedges: a tenth of the calls that may be retried or hedged, over all processes.

A token bucket for each mailbox, in hundredths of a token. ``includes/call_budget.lua`` has the same rule for Redis;
eager mode calls this one.
"""

from __future__ import annotations

from typing import Final

#: The budget of a mailbox that was never called, and the largest one: ten retries, and a hundred.
START: Final = 1000
MOST: Final = 10_000

#: What a call adds to the budget, and what a retry or a hedge costs.
DEPOSIT: Final = 10
PRICE: Final = 100


def deposited(budget: int) -> int:
    """The budget after a call."""
    return min(MOST, budget + DEPOSIT)


def spent(budget: int) -> int | None:
    """The budget after a retry or a hedge; ``None`` if there is not enough of it."""
    return None if budget < PRICE else budget - PRICE
