"""The load: a mix of messages, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Order:
    """One send."""

    #: ``plain`` (a Celery task), ``supervised``, ``flaky`` (fails at first), ``hopeless`` (always) or ``poison``.
    kind: str
    nap_ms: int = 0
    failures: int = 0
    countdown_ms: int = 0
    priority: int | None = None
    track: bool = False


#: More failures than a message has attempts.
HOPELESS = 1000

_KINDS = {"plain": 50, "supervised": 28, "flaky": 18, "hopeless": 4}
_NAPS_MS = {(0, 0): 70, (1, 15): 24, (20, 80): 5, (300, 900): 1}


def orders(seed: int, poison_every: int) -> Iterator[Order]:
    """An endless series of sends, with poison at this interval (0: none)."""
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        if poison_every and number % poison_every == poison_every // 2:
            yield Order("poison", track=True)
            continue
        kind = _drawn(rng, _KINDS)
        yield Order(
            kind,
            nap_ms=rng.randint(*_drawn(rng, _NAPS_MS)),
            failures={"flaky": rng.randint(1, 3), "hopeless": HOPELESS}.get(kind, 0),
            countdown_ms=rng.randint(100, 3000) if rng.random() < 0.15 else 0,
            priority=rng.choice((0, 3, 6, 9)) if rng.random() < 0.3 else None,
            track=rng.random() < 0.5,
        )


def _drawn(rng: random.Random, weights: Mapping[_T, int]) -> _T:
    return rng.choices(list(weights), list(weights.values()))[0]
