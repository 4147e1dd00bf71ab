"""Proof of death: whoever has seen a process end says so, and no silence has to pass.

The proof is given by the incarnation itself (it leaves), by its heart (heart.py), or by whoever waits for the process.
"""

from __future__ import annotations

from typing import Any

from orchestrator.core.death import DeathReason
from orchestrator.core.keys import Keys

#: Which argument of the script is the reason.
REASON_AT = 2

#: Whoever proves a death needs no turn as a sweeper, and is not refused by a heartbeat.
_NO_BEAT = _NO_TURN = ""


def proof_of_death(
    keys: Keys, incarnation: str, reason: DeathReason, *, by: str, error: str = ""
) -> tuple[str, list[str], list[Any]]:
    """The script that ends an incarnation of which is known that it has ended: its name, keys and arguments.

    Run twice, or for one that has ended before, it does nothing. With the next heartbeat of any worker its mail is
    handed on.
    """
    return (
        "fence",
        [keys.leases, keys.dying, keys.deaths, keys.incarnation(incarnation), keys.sweep, keys.silent],
        [incarnation, _NO_BEAT, reason.value, by, _NO_TURN, 0, keys.root, error],
    )
