"""Proof of death: a process that has seen another one end records it, so that no silence has to pass.

The proof is given by the incarnation itself when it leaves, by its heart (heart.py), or by a waiting parent process.
"""

from __future__ import annotations

from orchestrator.core.deliveries.death import DeathReason
from orchestrator.core.keys import Keys
from orchestrator.transport.redis import commands
from orchestrator.transport.redis.commands import Call


def proof_of_death(keys: Keys, incarnation: str, reason: DeathReason, *, by: str, error: str = "") -> Call:
    """The script that ends an incarnation of which is known that it has ended: its name, keys and arguments.

    Run a second time, or for an incarnation that has ended before, it does nothing. After the next heartbeat of any
    worker, its messages are requeued.
    """
    return commands.fence(keys, incarnation, reason.value, by, error=error)
