"""The judge of terms finds what it is there to find."""

from __future__ import annotations

from chaos.claims import ClaimsSeen
from chaos.judge_terms import judge_terms
from chaos.redis_record import Recorded
from chaos.witness import Row

T = 1_000_000
NAME = ("election", "singleton:chief")
#: Leads from T to T + 10 s; then b.
RECORD = [
    Recorded(T, "lease_granted", (*NAME, "a", "10")),
    Recorded(T + 10_000, "lease_ended", (*NAME, "a", "10", "killed")),
    Recorded(T + 10_000, "lease_granted", (*NAME, "b", "11")),
    Recorded(T + 99_000, "lease_ended", (*NAME, "b", "11", "drained")),
]


def commanded(delivery: str, by: str, at_ms: int, pid: int = 7) -> Row:
    return Row(at_ms, "commanded", pid=pid, note={"delivery": delivery, "by": by})


def violations(rows: list[Row], claims: list[ClaimsSeen] = []) -> str:  # noqa: B006
    return "; ".join(judge_terms(rows, RECORD, claims))


def test_messages_that_begin_in_the_terms_of_who_runs_them_are_no_violation() -> None:
    claims = [ClaimsSeen(T, "a", ("a",)), ClaimsSeen(T, "", ("a",)), ClaimsSeen(T, "b", ())]
    rows = [commanded("m", "a", T + 100), commanded("m", "b", T + 11_000)]
    elected = Row(T, "elected", note={"number": 11, "leader": "b"})
    assert violations([*rows, elected], claims) == ""


def test_claims_of_two_terms_at_once_are_found() -> None:
    assert "while b led, a had claimed messages" in violations([], [ClaimsSeen(T, "b", ("a", "b"))])


def test_a_message_that_ran_where_nobody_led_is_found() -> None:
    assert "c ran m, and never led" in violations([commanded("m", "c", T)])


def test_a_message_that_began_after_the_term_is_found_unless_its_worker_was_struck() -> None:
    late = commanded("m", "a", T + 12_000)
    assert "a began m 2000 ms after its term 10" in violations([late])
    stop = Row(T + 9000, "strike", pid=7, note={"kind": "freeze"})
    assert violations([stop, late]) == ""


def test_a_message_that_goes_back_to_an_earlier_term_is_found() -> None:
    rows = [commanded("m", "b", T + 10_100), commanded("m", "a", T + 10_200)]
    assert "m began in term 11 and then in 10" in violations(rows)


def test_a_term_that_redis_does_not_know_is_found() -> None:
    assert "not on record" in violations([Row(T, "elected", note={"number": 11, "leader": "a"})])
