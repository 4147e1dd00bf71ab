"""Hierarchies of agents: declared, found, told by level, and what becomes of one whose agents are gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import (
    InvalidDeclaration,
    InvalidPolicy,
    Message,
    Orchestrator,
    Refusal,
    UnknownAgent,
    UnknownHierarchy,
    UnknownMessage,
)
from tests.support.living_agents import Page, close, end, live, mail, make, reader

NAMES = ("chief", "lead-1", "lead-2", "w1", "w2", "w3")
AGENTS = tuple(map(reader, NAMES))
STRUCTURE = {"chief": {"lead-1": ["w1", "w2"], "lead-2": {"w3": []}}}


class Other(Message): ...


@pytest.fixture(params=["eager", "redis"])
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    eager = request.param == "eager"
    made = make("redis://127.0.0.1:1/0" if eager else request.getfixturevalue("redis_url"), *AGENTS, eager=eager)
    live(made, *NAMES)
    yield made
    close(made)


@pytest.mark.parametrize(
    ("level", "reached"),
    [
        ("all", ["chief", "lead-1", "w1", "w2", "lead-2", "w3"]),
        ("leads", ["chief", "lead-1", "lead-2"]),
        ("members", ["w1", "w2", "w3"]),
    ],
)
def test_a_level_gets_the_message(orchestrator: Orchestrator, level: str, reached: list[str]) -> None:
    team = orchestrator.hierarchy("ops", STRUCTURE)
    report = team.broadcast(Page(number=1), level=level, metadata={"job": 1})
    assert list(report.deliveries) == reached == list(team.agents(level))
    assert report.refused == {}
    if not orchestrator.eager:
        assert [name for name, messages in mail(orchestrator, *NAMES).items() if messages] == sorted(reached)


def test_it_is_found_by_its_name_listed_declared_anew_and_deleted(orchestrator: Orchestrator) -> None:
    orchestrator.hierarchy("ops", STRUCTURE)
    found = orchestrator.hierarchy("ops")
    assert (found.leads, found.members) == (("chief", "lead-1", "lead-2"), ("w1", "w2", "w3"))
    orchestrator.hierarchy("night", ["w1", "w2"])
    assert orchestrator.hierarchies.names() == ["night", "ops"]
    assert orchestrator.hierarchy("ops", {AGENTS[0]: [AGENTS[3]]}).agents() == ("chief", "w1")
    assert orchestrator.hierarchy("ops").agents() == ("chief", "w1")
    assert found.delete()
    assert not found.delete()
    assert not orchestrator.hierarchies.delete("ops")
    with pytest.raises(UnknownHierarchy, match="unknown hierarchy 'ops'; known: night"):
        orchestrator.hierarchy("ops")


def test_an_agent_that_is_down_or_no_longer_known_is_not_reached(orchestrator: Orchestrator) -> None:
    if orchestrator.eager:
        pytest.skip("of two apps; one agent of an eager app is down in tests/unit/eager/test_dead_agents.py")
    team = orchestrator.hierarchy("ops", {"chief": ["w1", "w2"]})
    end(orchestrator)
    live(orchestrator, "w2", number=2)
    others = make(orchestrator.app.conf.broker_url, *AGENTS[1:])
    report = others.hierarchy("ops").broadcast(Page(number=1))
    assert list(report.deliveries) == ["w2"]
    assert report.refused == {"chief": Refusal.DOWN, "w1": Refusal.DOWN}
    assert [receipt.recipient for receipt in report.receipts] == ["chief", "w1", "w2"]
    strangers = make(orchestrator.app.conf.broker_url, reader("x"))
    assert strangers.hierarchy("ops").broadcast(Page(number=1)).wait(1) == dict.fromkeys(team.agents(), Refusal.DOWN)
    close(others)
    close(strangers)


def cycle() -> dict[str, Any]:
    structure: dict[str, Any] = {}
    structure["chief"] = structure
    return structure


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        (
            {"chief": {"lead-1": ["w1", "chief"]}},
            "a cycle: chief → lead-1 → chief; allowed: an agent stands in it once",
        ),
        (cycle(), "a cycle: chief → chief"),
        ({"chief": ["w1"], "lead-1": ["w1", "w1"]}, "agent 'w1' is in it twice; allowed: once"),
        (
            {"chief": {"lead-1": ["w1", "chief"]}, "lead-2": ["w1"]},
            "allowed: an agent stands in it once; agent 'w1' is in it twice",
        ),
        (
            {"chief": {"lead-1": ["lead-1", "nobody"]}, "lead-2": ["no one"]},
            "allowed: an agent stands in it once; agent 'nobody' is not known; agent 'no one' is not known",
        ),
        ({"chief": "w1"}, "'w1' below 'chief'; allowed: a mapping of agents, or a list of them"),
        ({"chief": 7, "lead-1": None}, "7 below 'chief'; allowed: a mapping of agents, or a list of them; None below"),
        ("chief", "'chief' on top; allowed"),
        ([7], "7; allowed: agents' names or Agent classes"),
        ({}, "0 agents; allowed: from 1 to 10000"),
    ],
)
def test_what_is_no_hierarchy_is_refused_with_all_faults(orchestrator: Orchestrator, structure: Any, text: str) -> None:
    with pytest.raises(InvalidDeclaration, match="hierarchy 'ops': ") as refused:
        orchestrator.hierarchy("ops", structure)
    assert text in str(refused.value)
    assert orchestrator.hierarchies.names() == []


def test_other_bad_input_is_refused(orchestrator: Orchestrator) -> None:
    with pytest.raises(UnknownAgent, match="unknown agent 'nobody'"):
        orchestrator.hierarchy("ops", {"chief": ["w1", "nobody"]})
    for name in ("", "x" * 201, "a\nb", 7):
        with pytest.raises(InvalidPolicy, match="name="):
            orchestrator.hierarchy(name, STRUCTURE)  # type: ignore[arg-type]
    assert orchestrator.hierarchies.names() == []
    team = orchestrator.hierarchy("ops", STRUCTURE)
    with pytest.raises(InvalidPolicy, match="level='some' is not allowed; allowed: all, leads, members"):
        team.broadcast(Page(number=1), level="some")
    with pytest.raises(UnknownMessage):
        team.broadcast(Other())
    with pytest.raises(InvalidPolicy, match="priority=12"):
        team.broadcast(Page(number=1), priority=12)
