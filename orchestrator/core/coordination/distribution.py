"""Distribution: which of several agents gets which of many items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heapreplace
from random import Random

from orchestrator.core.checks.choices import check_choice


class DistributionStrategy(StrEnum):
    """The ways to spread items over agents."""

    #: In turn, in the order in which the agents are named.
    ROUND_ROBIN = "round_robin"
    #: Each to the agent for which the fewest messages wait and run, those given here included.
    LEAST_LOADED = "least_loaded"
    #: The same for each of an agent's slots: one that runs more messages at once gets more.
    BALANCED = "balanced"
    #: To as few agents as possible: the free slots of the agent with the most of them, then of the next. What is left
    #: when no slot is free is balanced.
    GREEDY = "greedy"
    #: To any of them, with equal chances.
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Taker:
    """An agent that takes items, as it is when they are given out."""

    agent: str
    #: Messages that wait for it and that it runs.
    load: int = 0
    #: Messages that it runs at once.
    slots: float = 1
    #: How many more messages its mailbox takes; ``None`` for any number.
    room: int | None = None


def strategy_of(value: object) -> DistributionStrategy:
    """The strategy of that name.

    Raises:
        InvalidPolicy: there is none.
    """
    return check_choice("strategy", DistributionStrategy, value)


def spread(items: int, takers: Sequence[Taker], strategy: DistributionStrategy, random: Random) -> list[int]:
    """For each item, the place of the agent that gets it; fewer than ``items`` if there is no room for more."""
    given = [0] * len(takers)
    match strategy:
        case DistributionStrategy.ROUND_ROBIN:
            return _levelled(items, takers, given, lambda place: given[place])
        case DistributionStrategy.LEAST_LOADED:
            return _levelled(items, takers, given, lambda place: takers[place].load + given[place])
        case DistributionStrategy.BALANCED:
            return _balanced(items, takers, given)
        case DistributionStrategy.GREEDY:
            filled = _into_free_slots(items, takers, given)
            return filled + _balanced(items - len(filled), takers, given)
        case DistributionStrategy.RANDOM:
            return _at_random(items, takers, random)


def _balanced(items: int, takers: Sequence[Taker], given: list[int]) -> list[int]:
    return _levelled(items, takers, given, lambda place: (takers[place].load + given[place]) / takers[place].slots)


def _has_room(taker: Taker, given: int) -> bool:
    return taker.room is None or given < taker.room


def _levelled(items: int, takers: Sequence[Taker], given: list[int], level: Callable[[int], float]) -> list[int]:
    """Each item to the agent on the lowest level, of those with room; of equal ones, to the first."""
    heap = [(level(place), place) for place, taker in enumerate(takers) if _has_room(taker, given[place])]
    heapify(heap)
    places: list[int] = []
    while heap and len(places) < items:
        place = heap[0][1]
        places.append(place)
        given[place] += 1
        if _has_room(takers[place], given[place]):
            heapreplace(heap, (level(place), place))
        else:
            heappop(heap)
    return places


def _into_free_slots(items: int, takers: Sequence[Taker], given: list[int]) -> list[int]:
    free = [max(0, int(taker.slots) - taker.load) for taker in takers]
    places: list[int] = []
    for place in sorted(range(len(takers)), key=lambda place: -free[place]):
        room = takers[place].room
        count = min(free[place] if room is None else min(free[place], room), items - len(places))
        places += [place] * count
        given[place] += count
    return places


def _at_random(items: int, takers: Sequence[Taker], random: Random) -> list[int]:
    left = [taker.room for taker in takers]
    able = [place for place, room in enumerate(left) if room is None or room > 0]
    places: list[int] = []
    while able and len(places) < items:
        at = random.randrange(len(able))
        place = able[at]
        places.append(place)
        room = left[place]
        if room is not None:
            left[place] = room - 1
            if room == 1:
                able[at] = able[-1]
                able.pop()
    return places
