"""Ballots as users see them: in eager mode, and on a real worker, whose processes are killed while they vote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from orchestrator import (
    BallotExists,
    Decision,
    InvalidPolicy,
    Majority,
    NoAgents,
    NotDecided,
    Orchestrator,
    Quorum,
    Unanimous,
    UnknownAgent,
    UnknownBallot,
    UnknownMessage,
    Vote,
    Weighted,
)
from orchestrator.core.coordination.ballot import Silent, Tally
from orchestrator.core.coordination.ballot_rules import weights_of
from orchestrator.embedded import EmbeddedServer
from orchestrator.telemetry import attach, detach
from tests.apps import ballots_app
from tests.apps.ballots_app import VOTERS, Fail, Scale, says
from tests.support.cluster import NO_REDIS, Cluster
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT, WorkerProcess

APP = "tests.apps.ballots_app"


@pytest.fixture(scope="module")
def on_redis() -> Iterator[Cluster]:
    with (
        EmbeddedServer() as server,
        WorkerProcess(APP, server.url, pool="prefork", concurrency=2, queues="a,b,c,open,quiet,bystander") as worker,
    ):
        cluster = Cluster(server.url, worker, ballots_app.make(server.url))
        yield cluster
        cluster.close()


@pytest.fixture(params=["eager", "redis"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    ballots_app.noted.clear()
    if request.param == "redis":
        known: Cluster = request.getfixturevalue("on_redis")
        for key in known.redis.keys("test:*"):
            known.redis.delete(key)
        yield known
        return
    made = Cluster(NO_REDIS, None, ballots_app.make(NO_REDIS, eager=True))
    yield made
    made.close()


def noted(cluster: Cluster, key: str) -> list[Any]:
    if cluster.has_worker:
        return [json.loads(raw) for raw in cluster.redis.lrange(key, 0, -1)]
    return ballots_app.noted.get(key, [])


def told(cluster: Cluster, ballot_id: str) -> dict[str, Any]:
    """What each voter was told of a ballot, once all were."""

    def all_told() -> dict[str, Any]:
        found = {v: [d for d in noted(cluster, f"test:decided:{v}") if d["ballot"] == ballot_id] for v in VOTERS}
        assert all(len(decisions) <= 1 for decisions in found.values()), found
        return {v: decisions[0] for v, decisions in found.items()} if all(found.values()) else {}

    return eventually(all_told, 15, cluster.log)


# -- decisions


#: Votes, rule, silence; the decision, and a part of its reason that holds in any order of votes.
CASES: list[tuple[str, Any, Any, bool, str]] = [
    ("approve approve reject", Majority(), "abstain", True, "more than half of those who vote"),
    ("approve reject raise", Majority(), "abstain", False, "1 against it, 1 silent"),
    ("approve raise raise", Majority(), "abstain", True, "1 of 3 for it, 0 against it, 2 silent"),
    ("approve raise raise", Majority(), "reject", False, "who vote; silent voters count as against it"),
    ("approve approve approve", Unanimous(), "reject", True, "3 of 3 for it, 0 against it, 0 silent; needed: all"),
    ("approve approve raise", Unanimous(), "abstain", True, "2 of 3 for it, 0 against it, 1 silent"),
    ("raise raise raise", Unanimous(), "abstain", False, "0 of 3 for it, 0 against it, 3 silent"),
    ("approve reject reject", Quorum(1), "reject", True, "needed: at least 1 voter"),
    ("approve reject reject", Quorum(2), "abstain", False, "needed: at least 2 voters"),
    ("approve reject reject", Weighted({"a": 5, "b": 1, "c": 1}, 2 / 3), "abstain", True, "got: 5 of 7 (0.714286)"),
    ("approve approve raise", Weighted({"a": 2, "b": 1, "c": 2}, 0.7), "abstain", True, "; got: 3 of 3 (1)"),
    ("approve approve nothing", Majority(), "abstain", True, "for it"),
    ("nothing nothing reject", Quorum(1), "abstain", False, "for it"),
]  # fmt: skip


@pytest.mark.parametrize(("votes", "rule", "silent", "accepted", "why"), CASES)
def test_what_a_case_says_is_said_whoever_votes_last(
    votes: str, rule: Any, silent: Any, accepted: bool, why: str
) -> None:
    """Regression: whoever is slow may not be needed any more, and two cases counted on its vote."""
    outcomes: dict[str, Vote | str] = {"approve": Vote.approve(), "reject": Vote.reject()}
    said = dict(zip(VOTERS, votes.split(), strict=False))
    words = f"{rule}{'; silent voters count as against it' if silent == 'reject' else ''}"
    for order in permutations(VOTERS):
        tally = Tally(rule.threshold(VOTERS), Silent(silent), weights_of(rule, VOTERS))
        for voter in order:
            tally.count(voter, outcomes.get(said[voter], "dead"), 1)
        decision = Decision.from_wire("b", "Scale", {}, words, tally.decision())
        assert decision.accepted is accepted
        assert why in decision.why, order


@pytest.mark.parametrize(("votes", "rule", "silent", "accepted", "why"), CASES)
def test_a_ballot_is_decided_by_its_rule_and_everybody_is_told_the_same(
    cluster: Cluster, votes: str, rule: Any, silent: Any, accepted: bool, why: str
) -> None:
    message = says(**dict(zip(VOTERS, votes.split(), strict=False)))
    ballot = cluster.orchestrator.propose(message, voters=VOTERS, rule=rule, silent=silent, timeout_s=30)
    decision = ballot.wait(20)
    assert decision.accepted is accepted, decision
    assert why in decision.why
    assert decision == ballot.decision()
    assert {*decision.votes, *decision.missing} == set(VOTERS)
    for voter, vote in decision.votes.items():
        assert vote == (Vote.approve() if message.says[voter] == "approve" else Vote.reject("no memory for 3"))
    for voter, reason in decision.missing.items():
        ends = {"raise": "dead: retries exhausted", "nothing": "dead: returned no Vote"}
        assert reason in ("not needed", ends.get(message.says[voter]))
    said = {
        "ballot": ballot.id, "proposal": message.model_dump(), "accepted": accepted, "missing": dict(decision.missing),
        "votes": {name: [vote.approves, vote.why] for name, vote in decision.votes.items()},
    }  # fmt: skip
    assert told(cluster, ballot.id) == dict.fromkeys(VOTERS, said)
    state = ballot.state()
    assert (state.state, state.of) == ("accepted" if accepted else "rejected", state.of)
    assert state.proposed_s <= (state.decided_s or 0) < state.ends_s
    assert decision.decided_s == state.decided_s


def test_a_voter_alone_decides_and_need_not_want_to_know(cluster: Cluster) -> None:
    decision = cluster.orchestrator.propose(Scale(n=1, says={}), [ballots_app.Quiet], Majority()).wait(20)
    assert (decision.accepted, decision.votes, decision.missing) == (True, {"quiet": Vote.approve()}, {})


def test_a_dead_letter_that_is_replayed_after_the_decision_changes_nothing(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator
    ballot = orchestrator.propose(says(c="raise"), VOTERS, Unanimous(), timeout_s=30)
    decision = ballot.wait(20)
    assert decision.missing == {"c": "dead: retries exhausted"}
    letter = orchestrator.dead_letters.list(1)[0]
    assert (letter.agent, letter.message) == ("c", "vote_on_Scale")
    asked = len(noted(cluster, "test:asked:c"))
    assert orchestrator.dead_letters.replay(letter.id)
    eventually(lambda: len(noted(cluster, "test:asked:c")) > asked, 15, cluster.log)
    told(cluster, ballot.id)
    assert ballot.decision() == decision


def test_an_id_names_one_ballot(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator
    first = orchestrator.propose(says(), VOTERS, Majority(), id="scale: up")
    decision = first.wait(20)
    again = orchestrator.propose(says(), VOTERS, Majority(), id="scale: up")
    assert again.id == first.id == "scale: up"
    other_order = orchestrator.propose(says(), VOTERS[::-1], Majority(), id="scale: up")
    assert other_order.decision() == decision
    assert orchestrator.coordination.ballot("scale: up").wait(5) == decision
    told(cluster, "scale: up")
    assert len(noted(cluster, "test:asked:a")) == 1
    for other in ({"rule": Unanimous()}, {"voters": ["a"]}, {"message": says(a="reject")}, {"silent": "reject"}):
        asked: Any = {"message": says(), "voters": VOTERS, "rule": Majority(), **other}
        with pytest.raises(BallotExists, match="id='scale: up' is taken by a ballot with another proposal"):
            orchestrator.propose(**asked, id="scale: up")


def test_the_weights_of_a_ballot_may_be_named_in_any_order(cluster: Cluster) -> None:
    propose, weights = cluster.orchestrator.propose, {"a": 5, "b": 1}
    first = propose(says(), ["a", "b"], Weighted(weights, 1 / 2), id="weighted")
    decision = first.wait(20)
    turned = dict(reversed(weights.items()))
    assert propose(says(), ["b", "a"], Weighted(turned, 1 / 2), id="weighted").decision() == decision
    with pytest.raises(BallotExists):
        propose(says(), ["a", "b"], Weighted({"a": 1, "b": 5}, 1 / 2), id="weighted")


def test_ballots_are_listed_and_found(cluster: Cluster) -> None:
    coordination = cluster.orchestrator.coordination
    made = [cluster.orchestrator.propose(says(), ["a"], Majority()).id for _ in range(3)]
    assert [state.id for state in coordination.ballots(limit=3)] == made[::-1]
    assert [state.id for state in coordination.ballots(limit=1)] == made[2:]
    with pytest.raises(UnknownBallot, match="no ballot has the id 'none', or it is not kept any more"):
        coordination.ballot("none")
    with pytest.raises(UnknownBallot):
        coordination.ballot("\ud800")


def test_a_decided_ballot_cannot_be_cancelled(cluster: Cluster) -> None:
    ballot = cluster.orchestrator.propose(says(), ["a"], Majority())
    decision = ballot.wait(20)
    assert not ballot.cancel("too late")
    assert ballot.wait(1) == decision


def test_the_contract_of_events_is_kept(cluster: Cluster) -> None:
    seen: list[Any] = []
    attach(seen.append, "ballot.proposed", "ballot.voted", "ballot.decided")
    try:
        ballot = cluster.orchestrator.propose(says(), ["a"], Majority())
        ballot.wait(20)
    finally:
        detach(seen.append)
    proposed = [event for event in seen if event.name == "ballot.proposed"]
    assert [dict(event.metadata) for event in proposed] == [{"ballot": ballot.id, "message": "Scale"}]
    if not cluster.has_worker:
        voted, decided = (event for event in seen if event.name != "ballot.proposed")
        assert (voted.metadata["voter"], voted.metadata["vote"]) == ("a", "approve")
        assert (decided.metadata["decision"], decided.metadata["how"]) == ("accepted", "votes")
        assert dict(decided.measurements) == {"approved": 1, "rejected": 0, "silent": 0, "of": 1}


# -- bad input


def _rejected(o: Orchestrator, **other: Any) -> Any:
    return o.propose(**{"message": says(), "voters": ["a"], "rule": Majority(), **other})


@pytest.mark.parametrize(
    ("other", "error", "text"),
    [
        ({"voters": []}, NoAgents, "none are named to vote on Scale; allowed: at least one agent"),
        ({"voters": "a"}, InvalidPolicy, "voters='a' is not allowed; allowed: a list of agents' names or"),
        ({"voters": ["a", 7]}, InvalidPolicy, "recipient=7 is not allowed"),
        ({"voters": ["a", "a"]}, InvalidPolicy, "voters='a' is not allowed; allowed: each agent once"),
        ({"voters": ["a"] * 1001}, InvalidPolicy, "voters='1001 of them' is not allowed; allowed: at most 1000"),
        ({"voters": ["a", "nobody"]}, UnknownAgent, "unknown agent 'nobody'"),
        ({"voters": ["a", "bystander"]}, UnknownMessage,
         r"'bystander' does not handle 'vote_on_Scale'; it handles: Fail; allowed: a voter .* with @votes\(Scale\)"),
        ({"message": "Scale"}, InvalidPolicy, "message='Scale' is not allowed; allowed: an instance of a Message"),
        ({"message": Fail()}, UnknownMessage, "'a' does not handle 'vote_on_Fail'"),
        ({"rule": "majority"}, InvalidPolicy, r"rule='majority' is not allowed; allowed: Majority\(\), Unanimous\(\)"),
        ({"rule": Quorum(2)}, InvalidPolicy, "approvals=2 is not allowed; allowed: a whole number from 1 to 1"),
        ({"rule": Weighted({"b": 1, "c": 1}, 0.5)}, InvalidPolicy,
         "weights='no weight of a; b is no voter; c is no voter' is not allowed; allowed: for each voter"),
        ({"timeout_s": 0}, InvalidPolicy, "timeout_s=0 is not allowed; allowed: a number above 0, at most 86400"),
        ({"timeout_s": True}, InvalidPolicy, "timeout_s=True is not allowed"),
        ({"silent": "approve"}, InvalidPolicy, "silent='approve' is not allowed; allowed: abstain, reject"),
        ({"id": "a\nb"}, InvalidPolicy, "id='a.nb' is not allowed; allowed: a text of 1 to 200 characters"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_is_sent(
    cluster: Cluster, other: dict[str, Any], error: type[Exception], text: str
) -> None:
    before = [state.id for state in cluster.orchestrator.coordination.ballots(5)]
    with pytest.raises(error, match=text):
        _rejected(cluster.orchestrator, **other)
    assert [state.id for state in cluster.orchestrator.coordination.ballots(5)] == before
    assert noted(cluster, "test:asked:a") == []


def test_so_is_what_a_ballot_is_asked(cluster: Cluster) -> None:
    ballot = _rejected(cluster.orchestrator)
    with pytest.raises(InvalidPolicy, match="timeout_s=0 is not allowed"):
        ballot.wait(0)
    with pytest.raises(InvalidPolicy, match="a text of at most 200 characters"):
        ballot.cancel("x" * 201)
    with pytest.raises(InvalidPolicy, match="limit=0 is not allowed"):
        cluster.orchestrator.coordination.ballots(0)


# -- late votes


def test_a_voter_that_is_slow_is_silent_by_the_time_out_and_leaves_no_dead_letter(on_redis: Cluster) -> None:
    """Regression: it was `dead: deadline passed`, with a dead letter and an ERROR with two tracebacks."""
    letters, logged = on_redis.orchestrator.dead_letters.count(), len(on_redis.log())
    ballot = on_redis.orchestrator.propose(says(a="wait"), VOTERS[:2], Unanimous(), timeout_s=3)
    decision = ballot.wait(20)
    assert decision.missing == {"a": "timeout"}
    on_redis.idle()
    assert on_redis.orchestrator.dead_letters.count() == letters
    log = on_redis.log()[logged:]
    assert "raised expected: HandlerTimeout" in log
    assert "ERROR" not in log
    assert "Traceback" not in log


# -- under SIGKILL


def test_a_voter_whose_process_is_killed_while_it_votes_is_asked_again_and_counted_once(on_redis: Cluster) -> None:
    on_redis.redis.delete(*[f"test:asked:{voter}" for voter in VOTERS])
    ballot = on_redis.orchestrator.propose(says(b="die", c="reject"), VOTERS, Unanimous(), timeout_s=60)
    # It does not wait for b, which votes all the same.
    assert not ballot.wait(20).accepted
    second = on_redis.orchestrator.propose(says(b="die"), VOTERS, Unanimous(), timeout_s=60)
    decision = second.wait(40)
    assert decision.accepted, decision
    assert decision.votes == {"a": Vote.approve(), "b": Vote.approve("in the end"), "c": Vote.approve()}
    # The first ballot's request, which is suspected of the death, may run after the second's, which is not.
    eventually(lambda: len(noted(on_redis, "test:asked:b")) >= 3)
    told(on_redis, second.id)


def test_a_ballot_outlives_its_proposer_and_the_worker_of_its_voters(on_redis: Cluster) -> None:
    code = (
        "import os; from tests.apps.ballots_app import *; from orchestrator import Unanimous\n"
        "b = orchestrator.propose(Scale(n=3, says={'a': 'approve', 'b': 'wait', 'c': 'approve'}), ['a', 'b', 'c'],\n"
        "    Unanimous(), timeout_s=60, id='orphan')\n"
        "os.kill(os.getpid(), 9)"
    )
    on_redis.redis.delete(*[f"test:asked:{voter}" for voter in VOTERS])
    environment = {**os.environ, "ORCHESTRATOR_BROKER_URL": on_redis.url, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    ballot = on_redis.orchestrator.coordination.ballot("orphan")
    eventually(lambda: noted(on_redis, "test:asked:b"), 20, on_redis.log)
    with pytest.raises(NotDecided, match=r"ballot 'orphan' is not decided after 0.2 s; it goes on"):
        ballot.wait(0.2)
    on_redis.worker.kill()
    on_redis.redis.rpush("test:go", "1", "1")
    on_redis.worker.start()
    decision: Decision = ballot.wait(40)
    assert decision.accepted, decision
    assert decision.votes["b"] == Vote.approve("in the end")
    told(on_redis, ballot.id)
    eventually(lambda: on_redis.redis.llen("test:asked:b") == 2)
