"""The rule of ballots: when votes decide, and what they decide."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.coordination.ballot import MOST_WHY_BYTES, Silent, Tally, vote_in
from orchestrator.core.coordination.ballot_rules import Majority, Quorum, Rule, Unanimous, Weighted, weights_of
from orchestrator.core.coordination.decision import LONGEST_WHY, Decision, How, Vote
from orchestrator.core.deliveries.outcome import Cancelled, Dead, Expired, Handled, Outcome
from orchestrator.core.errors import InvalidMessage, InvalidPolicy

VOTERS = ("a", "b", "c")
RULES: tuple[Rule, ...] = (
    Majority(),
    Unanimous(),
    Quorum(2),
    Weighted({"a": 1, "b": 2, "c": 4}, 0.5),
    Weighted({"a": 1, "b": 1, "c": 1}, 2 / 3),
)


def tally(rule: Rule, silent_as: Silent = Silent.ABSTAIN) -> Tally:
    return Tally(rule.threshold(VOTERS), silent_as, weights_of(rule, VOTERS))


def naively(rule: Rule, votes: dict[str, str], silent_as: Silent) -> bool:
    """The decision once all votes are in, as one would say it."""
    weights = weights_of(rule, VOTERS)
    approved = sum(weights[v] for v, vote in votes.items() if vote == "approve")
    against = sum(
        weights[v] for v, vote in votes.items() if vote == "reject" or (vote == "silent" and silent_as is Silent.REJECT)
    )
    match rule:
        case Majority():
            return approved > against
        case Unanimous():
            return approved > 0 and against == 0
        case Quorum(approvals):
            return approved >= approvals
        case Weighted(share=share):
            return approved > 0 and Fraction(approved, approved + against) >= Fraction(share).limit_denominator(100)


@pytest.mark.parametrize("silent_as", list(Silent))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_decision_is_that_of_all_votes_however_early_and_in_whatever_order(rule: Rule, silent_as: Silent) -> None:
    for said in product(("approve", "reject", "silent"), repeat=3):
        votes = dict(zip(VOTERS, said, strict=True))
        for order in permutations(VOTERS):
            known = tally(rule, silent_as)
            for voter in order:
                vote = "late" if votes[voter] == "silent" else Vote(votes[voter] == "approve")
                known.count(voter, vote, 1)
            assert known.decided is How.VOTES
            assert known.accepted is naively(rule, votes, silent_as), (votes, order)


def test_it_is_decided_as_soon_as_no_vote_can_change_it_and_only_once() -> None:
    known = tally(Majority())
    assert known.count("a", Vote.approve(), 5)
    assert not known.count("a", Vote.reject(), 6), "a second vote"
    assert not known.count("x", Vote.reject(), 6), "nobody who was asked"
    assert known.count("b", Vote.approve(), 7)
    assert (known.decided, known.accepted, known.decided_ms) == (How.VOTES, True, 7)
    before = known.decision()
    assert not known.count("c", Vote.reject("late"), 8)
    assert not known.time_out(9)
    assert not known.cancel("late", 9)
    assert known.decision() == before
    assert before["missing"] == {"c": "not needed"}


@pytest.mark.parametrize(
    ("silent_as", "rule", "accepted"),
    [
        (Silent.ABSTAIN, Majority(), True),
        (Silent.REJECT, Majority(), False),
        (Silent.ABSTAIN, Unanimous(), True),
        (Silent.REJECT, Unanimous(), False),
        (Silent.ABSTAIN, Quorum(2), False),
    ],
)
def test_at_its_time_who_has_not_voted_is_silent(silent_as: Silent, rule: Rule, accepted: bool) -> None:
    known = tally(rule, silent_as)
    known.count("a", Vote.approve(), 1)
    assert known.time_out(9)
    assert (known.decided, known.accepted, known.silent) == (How.TIMEOUT, accepted, 2)
    assert known.decision()["missing"] == {"b": "timeout", "c": "timeout"}


@given(st.lists(st.tuples(st.sampled_from(VOTERS), st.booleans()), max_size=8), st.sampled_from(RULES))
def test_weights_add_up_and_a_decision_stays(moves: list[tuple[str, bool]], rule: Rule) -> None:
    known = tally(rule)
    decided: dict[str, Any] = {}
    for voter, approves in moves:
        known.count(voter, Vote(approves), 1)
        assert known.approved + known.rejected + known.silent <= known.weight
        if decided:
            assert known.decision() == decided
        elif known.decided is not None:
            decided = known.decision()


@pytest.mark.parametrize(
    ("outcome", "vote"),
    [
        (Handled(Vote.approve().to_wire()), Vote.approve()),
        (Handled(Vote.reject("no memory").to_wire()), Vote.reject("no memory")),
        (Handled({"approves": "yes"}), "no vote"),
        (Handled(True), "no vote"),
        (Handled(None), "no vote"),
        (Dead("poison"), "dead: poison"),
        (Dead("result not stored", "InvalidResult: v.vote returned a bool"), "dead: returned no Vote"),
        (Dead("deadline passed"), "timeout"),
        (Expired(), "expired"),
        (Cancelled("sender"), "cancelled"),
    ],
)
def test_what_a_copys_outcome_counts(outcome: Outcome, vote: Vote | str) -> None:
    assert vote_in(outcome) == vote


def test_reasons_are_bounded_each_and_together() -> None:
    assert Vote.reject("x" * 500).why == "x" * LONGEST_WHY
    voters = [f"v{number}" for number in range(200)]
    known = Tally(Unanimous().threshold(voters), Silent.ABSTAIN, dict.fromkeys(voters, 1))
    known.threshold = Quorum(200).threshold(voters)
    for voter in voters[:-1]:
        known.count(voter, Vote.approve("é" * LONGEST_WHY), 1)
    kept = [vote.why for vote in known.counted.values() if isinstance(vote, Vote) and vote.why]
    assert known.why_bytes == 400 * len(kept) <= MOST_WHY_BYTES < 400 * (len(kept) + 1)


@pytest.mark.parametrize(
    "make", [lambda vote: vote("yes"), lambda vote: vote.reject(7), lambda vote: vote.reject("\ud800")]
)
def test_a_vote_is_checked(make: Any) -> None:
    with pytest.raises(InvalidPolicy, match="is not allowed"):
        make(Vote)


def test_two_thirds_are_two_thirds() -> None:
    threshold = Weighted({"a": 1, "b": 1, "c": 1}, 2 / 3).threshold(VOTERS)
    assert threshold.is_met(2, 3)
    assert not threshold.is_met(1, 2)
    assert Weighted({"a": 1, "b": 1, "c": 1}, Fraction(2, 3)).threshold(VOTERS) == threshold


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_a_quorum_bounds_what_wrong_votes_can_do(wrong: int) -> None:
    """Of ``3f + 1`` voters ``f`` may vote wrongly or not at all; of one less they could stop what all others want."""
    rule, others = Quorum(2 * wrong + 1), 2 * wrong + 1
    voters = [f"v{number}" for number in range(others + wrong)]

    def is_accepted(approving: int, wrong_vote: Vote | str, of: int) -> bool:
        known = Tally(rule.threshold(voters[:of]), Silent.ABSTAIN, dict.fromkeys(voters[:of], 1))
        for number, voter in enumerate(voters[:of]):
            right = Vote(number - wrong < approving)
            known.count(voter, wrong_vote if number < wrong else right, 1)
        known.time_out(2)
        return known.accepted

    for vote in (Vote.reject(), Vote.approve(), "timeout"):
        assert is_accepted(others, vote, 3 * wrong + 1), "all others are for it"
        assert not is_accepted(wrong, vote, 3 * wrong + 1), "most of the others are against it"
    assert not is_accepted(others - 1, Vote.reject(), 3 * wrong)
    with pytest.raises(InvalidPolicy, match=f"approvals={2 * wrong + 1} is not allowed; allowed: .* 1 to {2 * wrong}"):
        rule.threshold(voters[: 2 * wrong])


@pytest.mark.parametrize("share", [0, -1, 1.5, "1", True, float("nan"), 1e-9])
def test_a_share_is_checked(share: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"share=.* is not allowed; allowed: a number above 0, at most 1"):
        Weighted({"a": 1, "b": 1, "c": 1}, share)


@pytest.mark.parametrize("weights", [{}, ["a"], {"a": 0}, {"a": 1.5}, {"a": True}, {7: 1}, {"a": 10**7}, None])
def test_weights_are_checked(weights: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"weights=.* is not allowed; allowed: for each voter"):
        Weighted(weights, 0.5)


@pytest.mark.parametrize("approvals", [0, -1, "2", 1.5, True, None, 1001])
def test_a_quorum_is_checked(approvals: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"approvals=.* is not allowed; allowed: a whole number from 1 to 1000"):
        Quorum(approvals)


def test_a_decision_reads_what_was_written_and_nothing_else() -> None:
    known = tally(Quorum(1))
    known.count("a", Vote.reject("no"), 1000)
    known.count("b", "full", 1000)
    known.cancel("over", 2000)
    decision = Decision.from_wire("b1", "Scale", {"n": 3}, str(Quorum(1)), known.decision())
    assert (decision.votes, decision.missing) == ({"a": Vote.reject("no")}, {"b": "full", "c": "cancelled"})
    assert decision.why == ("cancelled: over; 0 of 3 for it, 1 against it, 1 silent, 1 left; needed: at least 1 voter")
    assert decision.decided_s == 2
    for broken in ({}, None, {**known.decision(), "votes": {"a": 1}}, {**known.decision(), "how": "magic"}):
        with pytest.raises(InvalidMessage, match="invalid Decision"):
            Decision.from_wire("b1", "Scale", {}, "", broken)
