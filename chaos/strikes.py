"""The schedule of kills, drawn from the seed before the run begins."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

#: No kill right before the load ends.
_QUIET_S = 1.5

#: No kill before the first workers consume.
_FIRST_S = 1.0


@dataclass(frozen=True, slots=True)
class Strike:
    """One kill to come."""

    at_s: float
    kind: str
    #: Picks the victim among those that are up, from 0 to below 1.
    draw: float
    #: How long the victim stays down, or stopped.
    pause_s: float


def plan(seed: int, kinds: Sequence[str], duration_s: float, every_s: float) -> list[Strike]:
    """All strikes of a run. Each kind comes once before any comes again."""
    rng = random.Random(f"strikes {seed}")
    strikes: list[Strike] = []
    bag: list[str] = []
    at_s = _FIRST_S
    while at_s < duration_s - _QUIET_S and kinds:
        if not bag:
            bag = list(kinds)
            rng.shuffle(bag)
        kind = bag.pop()
        strikes.append(Strike(at_s, kind, rng.random(), _pause_s(rng, kind)))
        at_s += every_s * rng.uniform(0.6, 1.4)
    return strikes


def _pause_s(rng: random.Random, kind: str) -> float:
    match kind:
        case "stop" | "contender-stop":
            return rng.uniform(1.0, 3.0)
        case "freeze" | "contender-freeze":
            return rng.uniform(11.0, 13.0)
        case "warm":
            # Between the SIGTERM and the SIGKILL.
            return rng.uniform(0.5, 3.0)
        case _:
            return rng.uniform(0.1, 1.5)
