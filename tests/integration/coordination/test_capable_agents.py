"""Agents chosen by what they offer, how loaded they are and where they live: to vote, to meet, and to be given work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import (
    DistributionRefused,
    InvalidPolicy,
    Majority,
    Message,
    Needs,
    NoAgents,
    Orchestrator,
    Vote,
    votes,
)
from tests.support.living_agents import Page, Reader, close, end, live, mail, make


class Move(Message):
    """A proposal that is passed on as it is."""

    what: dict[str, Any]


class Clerk(Reader):
    """Votes, too."""

    @votes(Move)
    def move(self, proposal: Move) -> Vote:
        return Vote.approve()


def clerk(name: str, *capabilities: str) -> type[Clerk]:
    return type(f"Clerk_{name}", (Clerk,), {"name": name, "capabilities": frozenset(capabilities)})


INFERENCE, TRAINING = ("i1", "i2", "i3"), ("t1", "t2", "t3")
AGENTS = [clerk(name, "inference") for name in INFERENCE] + [clerk(name, "training") for name in TRAINING]


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """Inference lives on two hosts, training on one."""
    made = make(redis_url, *AGENTS)
    live(made, "i1", "i2", *TRAINING)
    live(made, "i3", host="h2", number=2)
    yield made
    close(made)


def names(orchestrator: Orchestrator, capability: str, **more: Any) -> list[str]:
    return [one.name for one in orchestrator.discover(capability, **more)]


def busy(orchestrator: Orchestrator, **messages: int) -> None:
    """Have agents be loaded with so many messages."""
    for agent, count in messages.items():
        orchestrator.send_many(agent, [Page(number=1)] * count)


def asked(orchestrator: Orchestrator) -> list[str]:
    """The agents that are to vote."""
    waiting = mail(orchestrator, *INFERENCE, *TRAINING)
    return [name for name, found in waiting.items() if any("vote" in one["headers"]["task"] for one in found)]


# -- ballots


def test_those_that_offer_a_capability_and_live_vote(orchestrator: Orchestrator) -> None:
    ballot = orchestrator.propose(Move(what={"replicas": 3}), names(orchestrator, "inference"), Majority())
    assert asked(orchestrator) == list(INFERENCE)
    assert ballot.state().of == 3
    end(orchestrator, host="h2", number=2)
    second = orchestrator.propose(Move(what={}), names(orchestrator, "inference"), Majority())
    assert second.cancel()
    assert second.wait(1).missing == {"i1": "cancelled", "i2": "cancelled"}, "who has died is not asked"


def test_if_nobody_offers_it_nothing_is_proposed_and_the_error_says_so(orchestrator: Orchestrator) -> None:
    with pytest.raises(NoAgents, match="none are named to vote on Move"):
        orchestrator.propose(Move(what={}), names(orchestrator, "unknown"), Majority())
    with pytest.raises(NoAgents, match="no living agent handles Page and offers unknown"):
        orchestrator.distribute([Page(number=1)], to=Needs("unknown"))
    assert orchestrator.coordination.ballots() == []


def test_a_proposal_of_any_json_reaches_the_voters_as_it_is(orchestrator: Orchestrator) -> None:
    what = {"nested": {"very": {"deep": ["proposal", None, 1.5, True, "ü\n"]}}, "": []}
    ballot = orchestrator.propose(Move(what=what), ["i1"], Majority())
    assert ballot.cancel()
    assert ballot.wait(1).proposal == {"what": what}


def test_the_least_loaded_of_those_that_offer_it_are_asked_to_change(orchestrator: Orchestrator) -> None:
    busy(orchestrator, t1=2, t3=1)
    assert names(orchestrator, "training") == ["t2", "t3", "t1"]
    assert names(orchestrator, "training")[:2] == ["t2", "t3"]
    orchestrator.propose(Move(what={"to": "inference"}), names(orchestrator, "training")[:2], Majority())
    assert asked(orchestrator) == ["t2", "t3"]
    # Fewer than are wanted are seen before anything is proposed.
    assert len(names(orchestrator, "training")) < 5


# -- barriers


@pytest.mark.parametrize(("where", "parties"), [({}, INFERENCE), ({"host": "h1"}, ("i1", "i2"))])
def test_those_that_offer_it_are_the_parties_of_a_barrier(
    orchestrator: Orchestrator, where: dict[str, str], parties: tuple[str, ...]
) -> None:
    with orchestrator.monitors.session():
        barrier = orchestrator.barrier("checkpoint", names(orchestrator, "inference", **where))
        *first, last = [barrier.arrive(party).tripped for party in parties]
        assert (first, last) == ([False] * (len(parties) - 1), True)
        with pytest.raises(InvalidPolicy, match="party='t1' is not allowed; allowed: one of"):
            barrier.arrive("t1")


def test_there_is_no_barrier_for_nobody(orchestrator: Orchestrator) -> None:
    with pytest.raises(InvalidPolicy, match=r"parties=\[\] is not allowed"):
        orchestrator.barrier("checkpoint", names(orchestrator, "inference", host="h3"))


# -- items


def test_agents_with_room_to_spare_get_items_and_if_none_has_it_nobody_does(orchestrator: Orchestrator) -> None:
    busy(orchestrator, i1=3, i2=1)
    able = Needs("inference", max_load=1)
    assert orchestrator.distribute([Page(number=1)] * 2, to=able).counts == {"i3": 1, "i2": 1}
    with pytest.raises(NoAgents, match="offers inference with a load of at most 0;"):
        orchestrator.distribute([Page(number=1)], to=Needs("inference", max_load=0))


@pytest.mark.parametrize(
    ("load", "counts"),
    [
        ({"i1": 6}, {"i1": 0, "i2": 3, "i3": 3}),
        ({"i1": 2, "i2": 2, "i3": 2}, {"i1": 2, "i2": 2, "i3": 2}),
    ],
    ids=["uneven", "even"],
)
def test_new_items_even_out_the_load_of_agents(
    orchestrator: Orchestrator, load: dict[str, int], counts: dict[str, int]
) -> None:
    busy(orchestrator, **load)
    report = orchestrator.distribute([Page(number=1)] * 6, to=Needs("inference"), strategy="least_loaded")
    assert report.counts == counts
    loads = {one.name: one.load for one in orchestrator.discover("inference")}
    assert loads == {name: load.get(name, 0) + counts[name] for name in INFERENCE}


def test_one_agent_alone_gets_all_and_none_gets_nothing(orchestrator: Orchestrator) -> None:
    end(orchestrator)
    report = orchestrator.distribute([Page(number=1)] * 4, to=Needs("inference"), strategy="least_loaded")
    assert report.counts == {"i3": 4}
    end(orchestrator, host="h2", number=2)
    with pytest.raises(DistributionRefused, match="and the agents take 0"):
        orchestrator.distribute([Page(number=1)], to=["i3"], strategy="least_loaded")
