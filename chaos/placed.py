"""Steps that say what they need under chaos: agents that offer it, each hosted by some of the workers only."""

from __future__ import annotations

import time
from typing import Any

from chaos.steps import Revert, witnessed
from orchestrator import Agent, Context, Exponential, Message, Retry, handles

#: What steps need.
LIFT, WELD = "lift", "weld"

#: Agents, and their mailboxes. The hand offers nothing, and every worker hosts it.
CRANES = ("crane-1", "crane-2")
HAND = "hand"

#: What each of them offers.
OFFERED = {CRANES[0]: frozenset({LIFT}), CRANES[1]: frozenset({LIFT, WELD}), HAND: frozenset[str]()}


class Haul(Message):
    """Takes a while."""

    nap_ms: int = 0


class _Hauler(Agent):
    """Handles what a step needs it for, and takes it back."""

    retry = Retry(max_retries=3, backoff=Exponential(initial_s=0.05, factor=2.0, cap_s=0.5, jitter=0.0))

    @handles(Haul)
    def haul(self, message: Haul, context: Context) -> None:
        """Nap."""
        self._nap(message.nap_ms, context)

    @handles(Revert)
    def revert(self, message: Revert, context: Context) -> None:
        """Nap."""
        self._nap(message.nap_ms, context)

    def _nap(self, nap_ms: int, context: Context) -> None:
        by: dict[str, Any] = {"by": self.name}
        with witnessed(context.id, context.worker, **by):
            time.sleep(nap_ms / 1000)


class LightCrane(_Hauler):
    """Offers one of the two."""

    name = CRANES[0]
    capabilities = OFFERED[CRANES[0]]


class HeavyCrane(_Hauler):
    """Offers both."""

    name = CRANES[1]
    capabilities = OFFERED[CRANES[1]]


class Hand(_Hauler):
    """Handles the same messages, and must not get them."""

    name = HAND


def cranes_of(worker: int, workers: int) -> tuple[str, ...]:
    """The cranes that a worker hosts, by its number from 0 on: each is in one worker, and dies with it."""
    return CRANES if workers == 1 else (CRANES[worker],) if worker < len(CRANES) else ()
