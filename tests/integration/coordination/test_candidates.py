"""Candidates of an election: who of those who wait leads next, in eager mode and on Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from orchestrator import InvalidPolicy, NoCandidate, Orchestrator
from orchestrator.coordination.election import Election
from tests.support.coordination_under_test import in_session
from tests.support.eventually import eventually


class Line:
    """Candidates that wait in threads, in the order in which they came, and who has led so far."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.election: Election = orchestrator.election("scheduler")
        self.led: list[str] = []
        self.owners: dict[str, str] = {}
        self._orchestrator = orchestrator
        self._ends: list[Future[Any]] = []
        self.stops: dict[str, threading.Event] = {}

    def add(self, name: str, score: float = 0.0) -> None:
        stop = self.stops[name] = threading.Event()

        def lead() -> None:
            with self.election.campaign(wait_s=30, score=score) as leadership:
                self.owners[name] = leadership.owner
                self.led.append(name)
                stop.wait(30)

        before = len(self.election.candidates())
        self._ends.append(in_session(self._orchestrator, lead))
        eventually(lambda: name in self.led or len(self.election.candidates()) > before)

    def end(self) -> None:
        for stop in self.stops.values():
            stop.set()
        for end in self._ends:
            end.result(20)


@pytest.fixture
def line(orchestrator: Orchestrator) -> Iterator[Line]:
    made = Line(orchestrator)
    yield made
    made.end()


def test_the_candidate_with_the_highest_score_leads_next_and_of_equal_ones_who_came_first(line: Line) -> None:
    line.add("first")
    for name, score in (("low", -1.5), ("b", 7), ("c", 7.0), ("best", 8e9), ("none", 0)):
        line.add(name, score)
    assert line.led == ["first"]
    line.end()
    assert line.led == ["first", "best", "b", "c", "none", "low"]


def test_a_higher_score_deposes_nobody(line: Line) -> None:
    line.add("first", 1)
    line.add("better", 2)
    assert line.led == ["first"]
    leader = line.election.leader()
    assert leader is not None
    assert leader.leader == line.owners["first"]


def test_a_leader_hands_its_term_over_to_a_candidate_of_its_choice(orchestrator: Orchestrator, line: Line) -> None:
    with orchestrator.monitors.session(), line.election.campaign() as leadership:
        for name in ("a", "b"):
            line.add(name)
        second = line.election.candidates()[1]
        assert leadership.resign(to=second)
        eventually(lambda: line.led == ["b"])
        assert line.owners["b"] == second
        assert not leadership.resign(to=second)
        assert not leadership.resign()
    before = line.election.observe(after=leadership.term)
    assert before is not None
    assert before.reason == "resigned"
    term = line.election.leader()
    assert term is not None
    assert (term.leader, term.number > leadership.number) == (second, True)
    line.stops["b"].set()
    eventually(lambda: line.led == ["b", "a"])


def test_a_term_goes_on_if_the_one_it_is_handed_to_does_not_wait(orchestrator: Orchestrator, line: Line) -> None:
    with orchestrator.monitors.session() as session, line.election.campaign() as leadership:
        with pytest.raises(NoCandidate, match="is no candidate of election 'scheduler'; allowed: nobody waits"):
            leadership.resign(to="worker@host:1#1")
        line.add("a")
        (waiting,) = line.election.candidates()
        with pytest.raises(NoCandidate, match=f"'worker@host:1#1' is no candidate .*; allowed: {waiting}"):
            leadership.resign(to="worker@host:1#1")
        leadership.check()
        term = line.election.leader()
        assert term is not None
        assert (term.leader, term.number) == (session.id, leadership.number)


def test_only_its_workers_campaign_for_a_singleton(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session():
        with pytest.raises(
            InvalidPolicy, match=r"election='singleton:importer' .* led by the workers that host the agent"
        ):
            orchestrator.election("singleton:importer").campaign()
        assert orchestrator.election("singleton:importer").leader() is None


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda election, _: election.campaign(score="high"), "score='high'"),
        (lambda election, _: election.campaign(score=float("nan")), "score=nan"),
        (lambda election, _: election.campaign(score=2e15), "score=2"),
        (lambda _, leadership: leadership.resign(to=""), "to=''"),
        (lambda _, leadership: leadership.resign(to=7), "to=7"),
    ],
)
def test_bad_input_is_named_and_the_term_goes_on(
    orchestrator: Orchestrator, act: Callable[[Any, Any], Any], named: str
) -> None:
    election = orchestrator.election("scheduler")
    with orchestrator.monitors.session(), election.campaign() as leadership:
        with pytest.raises(InvalidPolicy, match=named):
            act(election, leadership)
        assert list(election.candidates()) == []
        leadership.check()
