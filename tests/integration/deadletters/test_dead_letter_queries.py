"""Filters, pages and groups of the dead-letter log: the same tests in Redis and in memory."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from orchestrator.core.errors import (
    InvalidPolicy,
)
from tests.support.dead_letter_runs import ids
from tests.support.letters_under_test import LettersUnderTest


def test_an_empty_log_has_nothing(letter_log: LettersUnderTest) -> None:
    log = letter_log.log
    assert (log.list(), log.count(), log.query().page().letters, log.query().count(), log.query().groups()) == (
        [],
        0,
        (),
        0,
        [],
    )


def test_listing_is_limited_or_not(letter_log: LettersUnderTest) -> None:
    made = [letter_log.add_letter() for _ in range(7)]
    assert ids(letter_log.log.list(3)) == made[::-1][:3]
    assert ids(letter_log.log.list(1000)) == made[::-1]


def test_each_filter_finds_its_letters_and_all_of_them_together(letter_log: LettersUnderTest) -> None:
    plain = letter_log.add_letter(agent="billing", message="Charge", error="ValueError", reason="retries exhausted")
    other_agent = letter_log.add_letter(
        agent="shipping", message="Charge", error="ValueError", reason="retries exhausted"
    )
    other_message = letter_log.add_letter(
        agent="billing", message="Refund", error="ValueError", reason="retries exhausted"
    )
    other_error = letter_log.add_letter(agent="billing", message="Charge", error="KeyError", reason="retries exhausted")
    other_reason = letter_log.add_letter(agent="billing", message="Charge", error="ValueError", reason="timeout")

    def found(**options: Any) -> set[str]:
        page = letter_log.log.query(**options).page()
        assert letter_log.log.query(**options).count() == len(page.letters)
        return set(ids(page.letters))

    assert found(agent="billing") == {plain, other_message, other_error, other_reason}
    assert found(message="Charge") == {plain, other_agent, other_error, other_reason}
    assert found(error="ValueError") == {plain, other_agent, other_message, other_reason}
    assert found(reason="timeout") == {other_reason}
    assert found(agent="billing", message="Charge", error="ValueError", reason="retries exhausted") == {plain}
    assert found(agent="nobody") == set()
    group = letter_log.log.get(plain).group
    assert found(group=group, agent="billing") >= {plain}


def test_letters_of_many_kinds_come_in_the_order_in_which_they_died(letter_log: LettersUnderTest) -> None:
    agents, errors = ("billing", "shipping"), ("KeyError", "ValueError", "TypeError")
    made = [letter_log.add_letter(agent=agents[n % 2], error=errors[n % 3]) for n in range(240)]
    billing = made[::2]
    log, seen, before = letter_log.log, [], None
    while True:
        page = log.query(agent="billing").page(17, before=before)
        seen += ids(page.letters)
        if (before := page.before) is None:
            break
    assert seen == billing[::-1]
    # Some from the front of their kinds, and some from the middle.
    assert log.query(agent="billing").replay(at_most=110).sent == 110
    assert ids(log.query(agent="billing").page().letters) == billing[110:][::-1]
    for letter_id in (made[51], made[201], made[99]):
        log.replay(letter_id)
    left = [one for one in made[1::2] if one not in (made[51], made[201], made[99])]
    assert ids(log.query(agent="shipping").page(1000).letters) == left[::-1]
    assert (log.query(agent="shipping", error="KeyError").count(), log.query(agent="billing").count()) == (37, 10)
    assert log.query(agent="shipping").replay().sent == len(left)


@pytest.mark.parametrize("options", [{}, {"agent": "billing"}, {"reason": "timeout"}], ids=["all", "agent", "reason"])
def test_letters_of_more_kinds_than_are_merged_are_sent_oldest_first(
    letter_log: LettersUnderTest, options: Any
) -> None:
    made = [letter_log.add_letter(error=f"Error{n % 70}", reason="timeout") for n in range(150)]
    log = letter_log.log
    assert log.query(**options).replay(all=True, at_most=110).sent == 110
    assert ids(log.query(**options).page(1000).letters) == made[110:][::-1]
    assert letter_log.index_problems() == []
    assert log.query(**options).replay(all=True).sent == 40
    assert (letter_log.accepted(), letter_log.log.count()) == (150, 0)


def test_small_and_large_letters_are_sent_oldest_first(letter_log: LettersUnderTest) -> None:
    errors = ("KeyError", "ValueError")
    made = [letter_log.add_letter(error=errors[n % 2], body={"text": "x" * (6000 if n % 3 else 6)}) for n in range(30)]
    log = letter_log.log
    raws = {letter.id: letter.raw for letter in log.list(100)}
    log.query(error="KeyError").park("later")
    assert log.query(agent="billing").replay(at_most=4).sent == 4
    assert log.query(agent="billing", state="parked").replay(at_most=4).sent == 4
    left = [one for n, one in enumerate(made) if n >= 8]
    assert ids(log.list(100)) == left[::-1]
    assert {letter.id: letter.raw for letter in log.list(100)} == {one: raws[one] for one in left}
    assert letter_log.index_problems() == []
    assert log.query(state="all").replay(all=True).sent == 22
    if letter_log.keeps_bytes:
        assert sorted(letter.raw for letter in letter_log.die_again()) == sorted(raws.values())


@pytest.mark.parametrize("agent", ["billing", None])
def test_parked_letters_are_sent_and_the_open_ones_between_them_stay(
    letter_log: LettersUnderTest, agent: str | None
) -> None:
    """Regression: their messages were cut off with those of the parked ones."""
    made = [letter_log.add_letter() for _ in range(6)]
    log = letter_log.log
    raws = {letter.id: letter.raw for letter in log.list()}
    for parked in made[::2]:
        log.park(parked, "later")
    assert log.query(state="parked", agent=agent).replay().sent == 3
    assert {letter.id: letter.raw for letter in log.list()} == {one: raws[one] for one in made[1::2]}
    assert letter_log.index_problems() == []
    assert log.query().replay(all=True).sent == 3


def test_letters_that_are_nearly_each_of_a_kind_are_found_too(letter_log: LettersUnderTest) -> None:
    made = [letter_log.add_letter(error=f"Error{n}") for n in range(1001)]
    log = letter_log.log
    log.query(error="Error7").park("look at it")
    assert ids(log.query(agent="billing").page(20).letters) == made[::-1][:20]
    assert ids(log.query(agent="billing", error="Error500").page().letters) == [made[500]]
    assert ids(log.query(agent="billing", state="parked").page().letters) == [made[7]]
    assert log.query(agent="nobody").page().letters == ()
    counted = [log.query(agent="billing", state=state).count() for state in ("open", "parked", "all")]
    assert counted == [1000, 1, 1001]
    assert len(list(log.store.values("error"))) == 1001
    # By their last arrival; some arrive in the same millisecond.
    assert set(islice(log.store.values("error"), 3)) <= {f"Error{n}" for n in range(980, 1001)}
    assert log.query(agent="billing").replay().sent == 1000


def test_ids_are_taken_out_in_whatever_order_they_are_named(letter_log: LettersUnderTest) -> None:
    made = [letter_log.add_letter() for _ in range(6)]
    log = letter_log.log
    act = log.record("purge", "ann", "")
    assert log.store.remove([made[0], made[3], made[1]], act) == [made[0], made[3], made[1]]
    assert log.store.remove([made[5], made[2]], act) == [made[5], made[2]]
    assert ids(log.list()) == [made[4]]


def test_large_letters_are_all_replayed(letter_log: LettersUnderTest) -> None:
    made = [letter_log.add_letter(body={"order_id": "x" * 600_000, "cents": n}) for n in range(4)]
    assert letter_log.log.query().replay(all=True).sent == len(made)
    assert (letter_log.accepted(), letter_log.log.count()) == (len(made), 0)


def test_metadata_and_text_are_looked_for_in_the_letters(letter_log: LettersUnderTest) -> None:
    one = letter_log.add_letter(metadata={"job": 1, "tags": []}, text="the bank is closed")
    two = letter_log.add_letter(metadata={"job": 2}, body={"password": "hunter2"})
    log = letter_log.log
    assert ids(log.query(metadata={"job": 1}).page().letters) == [one]
    assert ids(log.query(metadata={"job": 2, "none": 1}).page().letters) == []
    assert ids(log.query(text="BANK is").page().letters) == [one]
    assert log.query(text="hunter2").count() == 0, "a secret can be searched for"
    assert log.query(metadata={"job": 2}).count() == 1
    assert ids(log.query(metadata={"job": 2}).page().letters) == [two]


def test_ages_count_from_the_time_of_death(letter_log: LettersUnderTest) -> None:
    letter_log.add_letter()
    log = letter_log.log
    assert log.query(newer_than_s=3600).count() == 1
    assert log.query(older_than_s=3600).count() == 0
    assert log.query(older_than_s=0, newer_than_s=3600).count() == 1


def test_pages_do_not_shift_when_letters_come_and_go(letter_log: LettersUnderTest) -> None:
    made = [letter_log.add_letter() for _ in range(9)]
    chosen = letter_log.log.query(agent="billing")
    first = chosen.page(4)
    assert ids(first.letters) == made[::-1][:4]
    letter_log.add_letter()
    letter_log.log.store.remove([made[0], made[8]], letter_log.log.record("purge", "test", ""))
    second = chosen.page(4, before=first.before)
    assert ids(second.letters) == [made[4], made[3], made[2], made[1]]
    assert chosen.page(4, before=made[1]).letters == ()
    assert chosen.page(4, before=made[1]).before is None


@pytest.mark.parametrize(
    "options", [{"agent": ""}, {"state": "shut"}, {"older_than_s": -1}, {"metadata": 5}, {"newer_than_s": True}]
)
def test_a_filter_that_makes_no_sense_is_refused(letter_log: LettersUnderTest, options: Any) -> None:
    with pytest.raises(InvalidPolicy, match="allowed"):
        letter_log.log.query(**options)


def test_letters_that_died_of_the_same_are_a_group(letter_log: LettersUnderTest) -> None:
    first = letter_log.add_letter(error="ValueError", stack=("/a/bank.py", "pay"))
    last = letter_log.add_letter(error="ValueError", stack=("/b/elsewhere/bank.py", "pay"), line=99)
    other = letter_log.add_letter(error="ValueError", stack=("/a/bank.py", "refund"))
    newest, oldest = letter_log.log.query().groups()
    assert (newest.count, newest.example.id) == (1, other)
    assert (oldest.count, oldest.example.id) == (2, last)
    assert oldest.first_ms == int(first.split("-")[0])
    assert oldest.last_ms == int(last.split("-")[0])
    assert sum(oldest.arrivals) == 2
    assert len(oldest.arrivals) == len(oldest.sparkline) == 24
    assert letter_log.log.query(group=oldest.fingerprint).count() == 2


def test_the_groups_of_a_filter_are_found_behind_newer_ones_of_others(letter_log: LettersUnderTest) -> None:
    first = letter_log.add_letter(stack=("/a/bank.py", "pay"))
    letter_log.add_letter(agent="audit", queue="audit", stack=("/a/books.py", "close"))
    parked = letter_log.add_letter(stack=("/a/bank.py", "refund"))
    letter_log.log.park(parked, "later")
    for number in range(3):
        letter_log.add_letter(agent="crm", queue="crm", stack=("/a/crm.py", f"f{number}"))
    chosen = letter_log.log.query(agent="billing")
    assert [group.example.id for group in chosen.groups(1)] == [first]
    assert [group.example.id for group in letter_log.log.query(agent="billing", state="all").groups(2)] == [
        parked,
        first,
    ]
    assert [group.example.agent for group in letter_log.log.query(text="books").groups(1)] == ["audit"]
    assert letter_log.log.query(agent="nobody").groups() == []
