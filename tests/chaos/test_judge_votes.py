"""The judge of ballots finds what it is there to find."""

from __future__ import annotations

import pytest

from chaos.ballots import VOTERS
from chaos.judge_votes import VotesVerdict, judge_votes
from chaos.redis_record import Recorded
from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter

A, B, C = VOTERS
SAYS = {A: "approve", B: "approve", C: "reject"}
VOTES = {A: True, B: True}


def proposing(rule: str = "Majority", silent: str = "abstain") -> list[Row]:
    note = {"ballot": "b", "says": SAYS, "rule": rule, "silent": silent}
    return [Row(0, "proposing", note=note), Row(0, "proposed", note={"ballot": "b"})]


def told(voter: str, delivery: str = "d", *, accepted: bool = True) -> Row:
    return Row(
        0, "told of", note={"ballot": "b", "voter": voter, "delivery": delivery, "accepted": accepted, "votes": VOTES}
    )


def voted(voter: str, vote: str) -> Recorded:
    return Recorded(0, "voted", ("b", "Motion", voter, vote, ""))


def decided(word: str = "accepted", how: str = "votes") -> Recorded:
    return Recorded(0, "ballot_decided", ("b", "Motion", word, how, "2", "0", "0", "3"))


TOLD = [told(voter) for voter in VOTERS]
RECORD = [voted(A, "approve"), voted(B, "approve"), decided()]


def violations(record: list[Recorded], rows: list[Row]) -> str:
    return "; ".join(judge_votes(rows, record, ()).violations)


def test_a_decision_of_which_all_are_told_is_no_violation() -> None:
    assert judge_votes([*proposing(), *TOLD], RECORD, ()) == VotesVerdict(ballots=1)
    assert violations(RECORD, [*proposing(), *TOLD, TOLD[0]]) == "", "it is handled again after a death"


def test_a_second_decision_is_found() -> None:
    assert "was decided 2 times" in violations([*RECORD, decided("rejected")], [*proposing(), *TOLD])


def test_a_ballot_without_a_decision_is_found() -> None:
    assert "was never decided" in violations([], proposing())
    assert violations([], proposing()[:1]) == "", "Redis may not have accepted it"


def test_a_vote_after_the_decision_and_a_second_one_are_found() -> None:
    assert f"counted after its decision: ['{C}']" in violations([*RECORD, voted(C, "reject")], [*proposing(), *TOLD])
    assert "counted twice" in violations([voted(A, "approve"), *RECORD], [*proposing(), *TOLD])


def test_a_vote_that_was_not_cast_is_found() -> None:
    record = [voted(A, "approve"), voted(B, "approve"), voted(C, "approve"), decided()]
    assert f"{C} was to reject, and its vote is approve" in violations(record, [*proposing("Unanimous"), *TOLD])


@pytest.mark.parametrize(
    ("rule", "silent", "cast", "how", "accepted"),
    [
        ("Majority", "abstain", [A], "votes", False),
        ("Majority", "abstain", [A], "timeout", True),
        ("Majority", "reject", [A], "timeout", False),
        ("Quorum", "abstain", [A, B], "votes", True),
        ("Quorum", "abstain", [A], "timeout", False),
        ("Unanimous", "abstain", [A, B], "votes", False),
        ("Unanimous", "abstain", [A, B], "timeout", True),
        ("Unanimous", "reject", [A, B], "timeout", False),
    ],
)
def test_a_decision_against_its_rule_is_found(
    rule: str, silent: str, cast: list[str], how: str, accepted: bool
) -> None:
    for word, is_right in (("accepted", accepted), ("rejected", not accepted)):
        record = [*(voted(voter, SAYS[voter]) for voter in cast), decided(word, how)]
        rows = [*proposing(rule, silent), *(told(voter, accepted=word == "accepted") for voter in VOTERS)]
        assert (violations(record, rows) == "") is is_right


def test_voters_that_are_told_otherwise_twice_or_not_at_all_are_found() -> None:
    rows = [*proposing(), *TOLD]
    assert "told different decisions" in violations(RECORD, [*rows, told(A, accepted=False)])
    lied = [*proposing(), *(told(voter, accepted=False) for voter in VOTERS)]
    assert "they were told otherwise" in violations(RECORD, lied)
    assert f"{A} was told in 2 messages" in violations(RECORD, [*rows, told(A, "another")])
    assert f"{C} was not told" in violations(RECORD, rows[:-1])


def test_a_letter_of_a_voter_that_was_not_told_to_fail_is_found() -> None:
    letter = DeadLetter("1-0", b"", A, "retries exhausted", agent=A)
    found = judge_votes([*proposing(), *TOLD], RECORD, [letter]).violations
    assert found == (f"ballots: 1 dead letters of {A}, which was told to fail 0 times",)


def test_a_ballot_that_nobody_has_proposed_is_found() -> None:
    assert "nobody has proposed it" in violations(RECORD, TOLD)
