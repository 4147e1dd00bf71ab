"""Ballots without a worker: time-outs, refused copies, lost answers, many voters, workers of an older version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from orchestrator import (
    Agent,
    BrokerUnavailable,
    Majority,
    NotDecided,
    OutdatedWorker,
    Quorum,
    Unanimous,
    UnknownBallot,
    Vote,
    votes,
)
from orchestrator.coordination.ballots import commands
from orchestrator.core.coordination.decision import Decision
from orchestrator.transport.redis.scripts import script_of
from tests.apps import ballots_app
from tests.apps.ballots_app import Scale
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.lost_answers import LostAnswers

VOTERS = ["a", "b", "c"]
PROPOSAL = Scale(n=3, says={})


@pytest.fixture
def cluster(redis_url: str) -> Iterator[Cluster]:
    made = Cluster(redis_url, None, ballots_app.make(redis_url))
    yield made
    made.close()


def messages(cluster: Cluster, queue: str) -> list[dict[str, Any]]:
    """What waits in a mailbox."""
    store = cluster.orchestrator.runtime.store
    entries = [entry for level in store.levels for entry in cluster.redis.xrange(cluster.keys.stream(queue, level))]
    return [json.loads(fields[b"m"]) for _, fields in entries]


def tasks(cluster: Cluster, queue: str) -> list[str]:
    return [message["headers"]["task"] for message in messages(cluster, queue)]


def sweep(cluster: Cluster) -> None:
    cluster.orchestrator.runtime.redis.timers.run()


# -- time


@pytest.mark.parametrize(("silent", "rule"), [("abstain", Majority()), ("reject", Majority()), ("abstain", Quorum(1))])
def test_who_has_not_voted_in_time_is_silent(cluster: Cluster, silent: Any, rule: Any) -> None:
    began = monotonic()
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, rule, timeout_s=0.3, silent=silent)
    decision = ballot.wait(10)
    assert 0.3 <= monotonic() - began < 5
    assert not decision.accepted
    assert (decision.how, decision.missing) == ("timeout", dict.fromkeys(VOTERS, "timeout"))
    assert decision.why.startswith("0 of 3 for it, 0 against it, 3 silent; needed: ")
    assert [tasks(cluster, voter) for voter in VOTERS] == [[f"{v}.vote_on_Scale", f"{v}.on_decision"] for v in VOTERS]


def test_a_sweep_ends_a_ballot_that_nobody_waits_for(cluster: Cluster) -> None:
    open_one = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=0.3)

    def is_decided() -> bool:
        sweep(cluster)
        return ballot.state().state != "open"

    eventually(is_decided)
    assert ballot.state().decided_s is not None
    sweep(cluster)
    assert tasks(cluster, "a") == ["a.vote_on_Scale", "a.vote_on_Scale", "a.on_decision"]
    # Of a ballot whose time has not come, nothing is decided.
    assert open_one.decision() is None
    assert cluster.redis.zcard(cluster.keys.timers) == 1


def test_a_wait_ends_after_all_of_its_time(cluster: Cluster) -> None:
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
    began = monotonic()
    with pytest.raises(NotDecided):
        ballot.wait(0.4)
    assert 0.4 <= monotonic() - began < 5


def test_a_ballot_that_redis_has_lost_is_unknown(cluster: Cluster) -> None:
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
    cluster.redis.flushdb()
    for ask in (ballot.decision, ballot.state, ballot.cancel, lambda: ballot.wait(5)):
        with pytest.raises(UnknownBallot):
            ask()


def test_a_ballot_is_kept_for_a_week_after_its_decision(cluster: Cluster) -> None:
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
    assert ballot.cancel()
    for key in cluster.redis.keys("orc:ballot*"):
        if key != cluster.keys.ballots.encode():
            assert 600_000_000 < cluster.redis.pttl(key) <= 604_800_000, key


# -- ends by hand


def test_a_cancelled_ballot_is_rejected_and_everybody_is_told(cluster: Cluster) -> None:
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
    assert ballot.cancel("the quarter is over")
    assert not ballot.cancel("again")
    decision = ballot.wait(1)
    assert (decision.accepted, decision.how) == (False, "cancelled")
    assert decision.why.startswith(
        "cancelled: the quarter is over; 0 of 3 for it, 0 against it, 0 silent, 3 left; needed"
    )
    assert decision.missing == dict.fromkeys(VOTERS, "cancelled")
    for voter in VOTERS:
        body = json.loads(messages(cluster, voter)[1]["body"])
        known = body[0][0]
        said = Decision.from_wire(*(known[name] for name in ("ballot", "message", "proposal", "rule", "decided")))
        assert said == decision


def test_a_voter_whose_copy_is_cancelled_or_purged_is_silent(cluster: Cluster) -> None:
    ballot = cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
    copies = {v.decode(): d.decode() for v, d in cluster.redis.hgetall(cluster.keys.ballot_copies(ballot.id)).items()}
    assert cluster.orchestrator.delivery(copies["a"]).cancel() == "cancelled"
    with cluster.orchestrator.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("b")
    assert ballot.state().silent == 2
    assert cluster.orchestrator.delivery(copies["c"]).cancel() == "cancelled"
    assert ballot.wait(1).missing == dict.fromkeys(VOTERS, "cancelled")


# -- what is refused


def test_a_full_mailbox_and_an_open_breaker_are_silent_and_the_decision_passes_both(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator
    orchestrator.send("full", ballots_app.Fail())
    orchestrator.breakers.isolate("open", why="for a test")
    ballot = orchestrator.propose(PROPOSAL, ["a", "full", "open"], Unanimous(), timeout_s=60)
    assert ballot.state().silent == 2
    assert tasks(cluster, "full") == ["full.Fail"]
    ballot.cancel()
    assert ballot.wait(1).missing == {"a": "cancelled", "full": "full", "open": "open"}
    assert tasks(cluster, "full") == ["full.Fail", "full.on_decision"]
    assert tasks(cluster, "open") == ["open.on_decision"]
    rows = {row.queue: row for row in orchestrator.ledger()}
    assert (rows["full"].accepted, rows["open"].accepted, rows["a"].accepted) == (2, 1, 2)


def test_a_refused_voter_may_decide_before_anybody_votes(cluster: Cluster) -> None:
    orchestrator = cluster.orchestrator
    orchestrator.breakers.isolate("open", why="for a test")
    ballot = orchestrator.propose(PROPOSAL, ["open", "a"], Unanimous(), timeout_s=60, silent="reject")
    decision = ballot.wait(1)
    assert not decision.accepted
    assert decision.missing == {"open": "open", "a": "not needed"}
    assert tasks(cluster, "a") == ["a.on_decision"], "it need not be asked any more"


def test_workers_of_an_older_version_are_refused(cluster: Cluster) -> None:
    keys, old = cluster.keys, "old@host:1#1"
    fields = {"queues": '["b"]', "library_version": "0.0.9", "releases_steps": "1"}
    cluster.redis.hset(keys.incarnation(old), mapping=fields)
    cluster.redis.zadd(keys.leases, {old: 1})
    text = (
        r"incarnation old@host:1#1, of version 0\.0\.9 .* consumes 'b', and would not count the votes that it records"
    )
    with pytest.raises(OutdatedWorker, match=text):
        cluster.orchestrator.propose(PROPOSAL, VOTERS, Majority())
    assert cluster.redis.keys("orc:ballot*") == []
    assert tasks(cluster, "a") == []
    assert cluster.orchestrator.propose(PROPOSAL, ["a", "c"], Majority()).state().of == 2


# -- answers that are lost


def test_an_answer_that_is_lost_asks_nobody_twice(cluster: Cluster) -> None:
    with LostAnswers(cluster.url) as proxy:
        cut = ballots_app.make(proxy.url)
        try:
            cut.coordination.ballots()
            proxy.lose(1, "vote_on_Scale", done_first=True)
            ballot = cut.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
            assert proxy.left == 0
            proxy.lose(1, ballot.id, done_first=True)
            assert ballot.cancel("once")
            assert proxy.left == 0
        finally:
            cut.app.close()
    assert [state.id for state in cluster.orchestrator.coordination.ballots()] == [ballot.id]
    for voter in VOTERS:
        assert tasks(cluster, voter) == [f"{voter}.vote_on_Scale", f"{voter}.on_decision"]


def test_a_proposal_that_is_repeated_after_an_error_under_its_id_is_the_same_ballot(cluster: Cluster) -> None:
    with LostAnswers(cluster.url) as proxy:
        cut = ballots_app.make(proxy.url)
        try:
            cut.coordination.ballots()
            proxy.lose(100, "vote_on_Scale", done_first=True)
            with pytest.raises(BrokerUnavailable):
                cut.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60, id="scale")
            proxy.lose(0, "", done_first=True)
            assert cut.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60, id="scale").id == "scale"
        finally:
            cut.app.close()
    assert len(cluster.orchestrator.coordination.ballots()) == 1
    assert tasks(cluster, "a") == ["a.vote_on_Scale"]


def test_a_proposal_without_an_id_that_is_made_again_after_an_error_is_another_ballot(cluster: Cluster) -> None:
    """Regression: it was the first one, which the voters may have decided, and whose decision nobody has seen."""
    with LostAnswers(cluster.url) as proxy:
        cut = ballots_app.make(proxy.url)
        try:
            cut.coordination.ballots()
            proxy.lose(100, "vote_on_Scale", done_first=True)
            with pytest.raises(BrokerUnavailable):
                cut.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60)
            proxy.lose(0, "", done_first=True)
            (first,) = cluster.orchestrator.coordination.ballots()
            assert cut.propose(PROPOSAL, VOTERS, Majority(), timeout_s=60).id != first.id
        finally:
            cut.app.close()


# -- many voters


def _voter(number: int) -> type[Agent]:
    class Many(Agent):
        name = f"v{number}"

        @votes(Scale)
        def scale(self, proposal: Scale) -> Vote:
            return Vote.approve()

        def on_decision(self, decision: Decision) -> None: ...

    return Many


def test_many_voters_are_asked_and_told_in_slices(cluster: Cluster) -> None:
    voters = [_voter(number) for number in range(450)]
    cluster.orchestrator.host(*voters)
    cluster.redis.config_resetstat()
    ballot = cluster.orchestrator.propose(PROPOSAL, voters, Majority(), timeout_s=60)
    assert ballot.cancel()
    scripts = sum(
        one["calls"] for name, one in cluster.redis.info("commandstats").items() if name.startswith("cmdstat_eval")
    )
    assert len(ballot.wait(1).missing) == 450
    for voter in voters:
        assert tasks(cluster, voter.name) == [f"{voter.name}.vote_on_Scale", f"{voter.name}.on_decision"]
    assert cluster.redis.zcard(cluster.keys.timers) == 0
    assert scripts >= 2 * 3, "450 are asked, and told, at most 200 at a time"


def test_a_sweep_goes_on_with_what_a_dead_process_has_begun(cluster: Cluster) -> None:
    voters = [_voter(number) for number in range(250)]
    cluster.orchestrator.host(*voters)
    ballot = cluster.orchestrator.propose(PROPOSAL, voters, Majority(), timeout_s=60)
    store, keys = cluster.orchestrator.runtime.store, cluster.keys
    name, names, args = commands.end_ballot(keys, ballot.id, "cancel", token="t")
    did, left = store.run(script_of("orchestrator.coordination.ballots", name), names, args)
    assert did == 1
    assert 50 <= left < 250, "at most 200, and 1 MB"
    assert ballot.state().state == "rejected"
    sweep(cluster)
    assert all(tasks(cluster, voter.name)[1:] == [f"{voter.name}.on_decision"] for voter in voters)
    assert cluster.redis.zcard(keys.timers) == 0
