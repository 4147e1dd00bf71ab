"""Which agent gets which item: spread evenly, never beyond a mailbox' room."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import InvalidPolicy, Needs
from orchestrator.core.coordination.distribution import DistributionStrategy, Taker, spread, strategy_of

LEVELLING = (DistributionStrategy.ROUND_ROBIN, DistributionStrategy.LEAST_LOADED, DistributionStrategy.BALANCED)

takers = st.lists(
    st.builds(
        Taker,
        st.just("a"),
        load=st.integers(0, 20),
        slots=st.integers(1, 8),
        room=st.none() | st.integers(0, 30),
    ),
    min_size=1,
    max_size=12,
)


def counts_of(places: list[int], agents: int) -> list[int]:
    counted = Counter(places)
    return [counted[place] for place in range(agents)]


@given(items=st.integers(0, 300), agents=takers, strategy=st.sampled_from(DistributionStrategy))
def test_all_items_are_given_out_as_far_as_there_is_room(
    items: int, agents: list[Taker], strategy: DistributionStrategy
) -> None:
    places = spread(items, agents, strategy, Random(1))
    counts = counts_of(places, len(agents))
    assert all(agent.room is None or count <= agent.room for agent, count in zip(agents, counts, strict=True))
    unbounded = any(agent.room is None for agent in agents)
    assert len(places) == (items if unbounded else min(items, sum(agent.room or 0 for agent in agents)))


@given(
    items=st.integers(0, 300),
    agents=st.integers(1, 20),
    load=st.integers(0, 50),
    slots=st.integers(1, 8),
    strategy=st.sampled_from(LEVELLING),
)
def test_agents_that_are_alike_get_the_same_number_or_one_more(
    items: int, agents: int, load: int, slots: int, strategy: DistributionStrategy
) -> None:
    alike = [Taker(str(number), load, slots) for number in range(agents)]
    counts = counts_of(spread(items, alike, strategy, Random(1)), agents)
    assert max(counts) - min(counts) <= 1


@given(items=st.integers(0, 300), agents=takers, strategy=st.sampled_from(LEVELLING))
def test_no_item_goes_to_an_agent_while_another_with_room_has_two_less(
    items: int, agents: list[Taker], strategy: DistributionStrategy
) -> None:
    """Counted as the strategy counts: items, messages, or messages for each slot."""
    counts = counts_of(spread(items, agents, strategy, Random(1)), len(agents))

    def level(place: int, count: int) -> float:
        agent = agents[place]
        if strategy is DistributionStrategy.ROUND_ROBIN:
            return count
        return (agent.load + count) / (agent.slots if strategy is DistributionStrategy.BALANCED else 1)

    with_room = [p for p, agent in enumerate(agents) if agent.room is None or counts[p] < agent.room]
    for place, count in enumerate(counts):
        if count and with_room:
            lowest = min(level(other, counts[other]) for other in with_room)
            assert level(place, count - 1) <= lowest, "its last item would have gone to the lowest"


@given(items=st.integers(0, 100), agents=takers)
def test_the_greedy_fills_free_slots_of_one_agent_after_the_other(items: int, agents: list[Taker]) -> None:
    counts = counts_of(spread(items, agents, DistributionStrategy.GREEDY, Random(1)), len(agents))
    free = [
        max(0, int(agent.slots) - agent.load)
        if agent.room is None
        else min(agent.room, max(0, int(agent.slots) - agent.load))
        for agent in agents
    ]
    if items <= sum(free):
        begun = [count for count, slots in zip(counts, free, strict=True) if 0 < count < slots]
        assert len(begun) <= 1, "only one agent has begun to fill"
        assert sum(counts) == items


def test_items_go_round_in_the_order_of_the_agents() -> None:
    assert spread(5, [Taker("a"), Taker("b")], DistributionStrategy.ROUND_ROBIN, Random(1)) == [0, 1, 0, 1, 0]


def test_the_least_loaded_gets_items_until_all_have_as_many() -> None:
    agents = [Taker("a", load=3), Taker("b"), Taker("c", load=1)]
    assert spread(6, agents, DistributionStrategy.LEAST_LOADED, Random(1)) == [1, 1, 2, 1, 2, 0]


def test_the_balanced_counts_by_slots() -> None:
    agents = [Taker("a", slots=1), Taker("b", slots=3)]
    assert counts_of(spread(8, agents, DistributionStrategy.BALANCED, Random(1)), 2) == [2, 6]


def test_random_gives_each_a_share() -> None:
    counts = counts_of(spread(1000, [Taker(str(n)) for n in range(10)], DistributionStrategy.RANDOM, Random(1)), 10)
    assert min(counts) > 50
    assert max(counts) < 200


def test_an_unknown_strategy_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(InvalidPolicy, match="strategy='fair' is not allowed; allowed: round_robin, least_loaded, "):
        strategy_of("fair")


@pytest.mark.parametrize(
    ("capabilities", "more", "text"),
    [
        ((), {}, "capabilities=[]"),
        (("a b",), {}, "capabilities=['a b']"),
        ((7,), {}, "capabilities=[7]"),
        (("ocr",), {"max_load": -1}, "max_load=-1"),
        (("ocr",), {"max_load": True}, "max_load=True"),
        (("ocr",), {"host": ""}, "host=''"),
        (("ocr",), {"host": 7}, "host=7"),
    ],
)
def test_needs_with_a_bad_value_are_refused(capabilities: tuple[str, ...], more: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        Needs(*capabilities, **more)  # type: ignore[arg-type]
    assert text in str(refused.value)
