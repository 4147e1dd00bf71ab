"""Lanes under chaos: an agent that runs at most LIMIT messages of a tenant at a time, over all workers."""

from __future__ import annotations

import random
import time
from typing import Any, Final

from chaos.witness import witness
from orchestrator import Agent, Concurrency, Context, Exponential, Message, Orchestrator, Retry, handles

#: The agent, and its mailbox.
LANE: Final = "lane"

#: Messages of a tenant that run at a time, and that are sent at a time.
LIMIT: Final = 2
_BURST: Final = 4

_TENANTS: Final = ("east", "west")


class Fetch(Message):
    """Takes ``nap_s`` seconds; its first ``failures`` attempts fail."""

    tenant: str
    nap_s: float
    failures: int


class Lane(Agent):
    """Handles a few messages of each tenant at a time."""

    name = LANE
    concurrency = Concurrency(LIMIT, "tenant")
    retry = Retry(max_retries=3, backoff=Exponential(initial_s=0.05, factor=2.0, cap_s=0.5, jitter=0.0))

    @handles(Fetch)
    def fetch(self, message: Fetch, context: Context) -> None:
        """Nap; fail while there are failures left."""
        where: dict[str, Any] = {"tenant": message.tenant, "delivery": context.id, "run": context.attempt}
        fails = context.attempt <= message.failures
        witness().write("entered", node=context.worker, **where)
        time.sleep(message.nap_s)
        witness().write("left", node=context.worker, **where, failed=fails)
        if fails:
            raise ConnectionError(f"attempt {context.attempt} of {message.failures} that fail")


def send_burst(orchestrator: Orchestrator, rng: random.Random) -> None:
    """Send more messages of a tenant than may run at a time."""
    tenant = rng.choice(_TENANTS)
    for _ in range(_BURST):
        nap_s, failures = rng.choice((0.0, 0.01, 0.05)), rng.choice((0, 0, 0, 1))
        orchestrator.send(LANE, Fetch(tenant=tenant, nap_s=nap_s, failures=failures))
