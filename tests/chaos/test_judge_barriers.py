"""The judge of barriers finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.barriers import MUSTER, ON_DEATH
from chaos.judge_barriers import BarriersVerdict, judge_barriers
from chaos.redis_record import Recorded
from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter

#: When the generation began, which is its number.
T = 1_000_000
BREAK, SHRINK = ON_DEATH
PIDS = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}


def row(what: str, party: str, at_ms: int = T, name: str = BREAK, number: int = T, **note: Any) -> Row:
    note = {"barrier": name, "party": party, **note}
    if what != "arriving":
        note["generation"] = number
    return Row(at_ms, what, pid=PIDS[party], note=note)


def came(party: str, end: str = "passed", *, waits: bool = True, **more: Any) -> list[Row]:
    """A party that arrives, and what becomes of it."""
    reason = {"reason": more.pop("reason")} if "reason" in more else {}
    rows = [row("arriving", party, **more), row("arrived", party, waits=waits, **more)]
    at_ms = more.pop("at_ms", T) + 100
    return [*rows, row(end, party, at_ms, **more, **reason)] if end else rows


def strike(at_ms: int = T + 5, pid: int = 1, kind: str = "contender") -> Row:
    return Row(at_ms, "strike", pid=pid, note={"kind": kind, "pids": [pid]})


def tripped(number: int = T, name: str = BREAK) -> Recorded:
    return Recorded(T + 90, "barrier_tripped", (name, str(number), "4"))


def broken(reason: str, at_ms: int = T + 90, name: str = BREAK) -> Recorded:
    return Recorded(at_ms, "barrier_broken", (name, str(T), reason, "a", "1"))


def shrunk(party: str = "a", name: str = SHRINK) -> Recorded:
    return Recorded(T + 80, "barrier_shrunk", (name, str(T), party, "killed"))


def sent(delivery: str, party: str = "d") -> Recorded:
    return Recorded(T + 90, "barrier_sent", (BREAK, str(T), party, MUSTER, delivery))


def told(delivery: str, *, trips: bool = True) -> Row:
    return Row(T + 120, "mustered", note={"delivery": delivery, "tripped": trips})


def struck_slowly(at_ms: int, pid: int = 1) -> Row:
    """Killed at once, and written down a second later: the machine is busy."""
    return Row(at_ms + 1000, "strike", pid=pid, note={"kind": "contender", "pids": [pid], "killed_ms": at_ms})


THREE = [*came("a"), *came("b"), *came("c")]
FOUR = [*THREE, *came("d")]


def verdict(rows: list[Row], *record: Recorded, letters: tuple[DeadLetter, ...] = ()) -> BarriersVerdict:
    return judge_barriers(rows, record, letters)


def violation(rows: list[Row], *record: Recorded) -> str:
    (found,) = verdict(rows, *record).violations
    return found


def test_a_death_that_breaks_a_generation_before_its_strike_is_written_down_is_no_violation() -> None:
    rows = [*came("a", ""), *came("b", "broke off", reason="killed"), struck_slowly(T + 20)]
    assert verdict(rows, broken("killed", T + 90)).violations == ()


def test_a_generation_that_trips_when_all_have_arrived_is_no_violation() -> None:
    assert verdict(FOUR, tripped()) == BarriersVerdict(generations=1)


def test_a_generation_that_ends_twice_or_never_is_found() -> None:
    assert "has ended 2 times" in violation(FOUR, tripped(), tripped())
    assert "has ended 0 times" in violation(came("a", "gave up"))


def test_a_generation_with_a_number_before_that_of_another_is_found() -> None:
    later = [one for party in "abcd" for one in came(party, number=T + 9)]
    assert f"generation {T} has ended after {T + 9}" in violation([*FOUR, *later], tripped(T + 9), tripped())


def test_a_generation_that_trips_too_early_is_found() -> None:
    assert "has tripped with 3 of 4 parties" in violation(THREE, tripped())
    assert verdict([*THREE, row("arriving", "d")], tripped()).violations == (), "its answer may be lost"
    later = row("arriving", "d", T + 500)
    assert "has tripped with 3 of 4" in violation([*THREE, later], tripped())
    answered = [*THREE, row("arriving", "d"), row("refused", "d", T + 200, number=T - 5, reason="timeout")]
    assert "has tripped with 3 of 4" in "; ".join(verdict(answered, tripped()).violations)


def test_a_generation_with_too_many_parties_is_found() -> None:
    assert "has 5 parties" in violation([*FOUR, *came("e")], tripped())


def test_a_party_that_passes_before_the_others_have_arrived_is_found() -> None:
    early = row("passed", "d", T + 10)
    assert "d was told tripped, on record is nothing" in violation([*THREE, *came("d", ""), early], tripped())


def test_a_party_that_is_told_otherwise_is_found() -> None:
    rows = [*THREE, *came("d", "broke off", reason="timeout")]
    assert "d was told timeout, on record is tripped" in violation(rows, tripped())
    late = [row("arriving", "e", T + 5000), row("refused", "e", T + 5000, reason="reset")]
    assert "e was told reset, on record is tripped" in violation([*FOUR, *late], tripped())


@pytest.mark.parametrize(
    ("reason", "at_ms", "struck", "said"),
    [
        pytest.param("timeout", T + 4000, 0, "", id="timeout"),
        pytest.param("timeout", T + 3000, 0, "broke by its timeout after 3000 ms", id="early-timeout"),
        pytest.param("killed", T + 90, 1, "", id="death"),
        pytest.param("killed", T + 90, 9, "broke by a death (killed), and nobody was struck", id="death-of-another"),
        pytest.param("wait timeout", T + 90, 1, "", id="stopped"),
        pytest.param("wait timeout", T + 90, 9, "broke by a wait timeout, and nobody was struck", id="wait-timeout"),
        pytest.param("reset", T + 90, 1, "broke: reset", id="reset-by-nobody"),
        pytest.param("interrupted", T + 90, 1, "broke: interrupted", id="interrupted"),
        pytest.param("lost", T + 90, 1, "broke: lost", id="lost"),
    ],
)
def test_a_generation_breaks_for_a_reason_only(reason: str, at_ms: int, struck: int, said: str) -> None:
    rows = [*came("a", ""), *came("b", ""), row("broke off", "b", at_ms + 10, reason=reason)]
    rows += [strike(pid=struck)] if struck else []
    rows += [row("gave up", "a", at_ms + 10)]
    found = verdict(rows, broken(reason, at_ms)).violations
    assert (said in found[0]) if said else found == (), found


def test_a_barrier_that_shrinks_does_without_the_dead_and_does_not_break() -> None:
    rows = [one for party in "abcd" for one in came(party, name=SHRINK) if (one.what, party) != ("passed", "a")]
    rows += [strike()]
    assert verdict(rows, shrunk(), tripped(name=SHRINK)) == BarriersVerdict(generations=1, shrunk=1)
    few = [one for one in rows if one.pid != 2]
    assert "has tripped with 3 of 4" in violation(few, shrunk(), tripped(name=SHRINK))
    alone = [*came("a", "", name=SHRINK), strike()]
    assert "should have shrunk" in violation(alone, broken("killed", name=SHRINK))


def test_a_party_that_the_others_do_without_is_told_so() -> None:
    rows = [one for party in "bcd" for one in came(party, name=SHRINK)]
    rows += [*came("a", "broke off", name=SHRINK, reason="killed"), strike(kind="contender-freeze")]
    assert verdict(rows, shrunk(), tripped(name=SHRINK)).violations == ()
    rows[-2] = row("broke off", "a", T + 100, name=SHRINK, reason="lost")
    assert "a was told lost, on record is killed, tripped" in violation(rows, shrunk(), tripped(name=SHRINK))


def test_a_barrier_that_shrinks_although_it_is_to_break_is_found() -> None:
    assert "has shrunk: {'a': 'killed'}" in violation(FOUR, shrunk(name=BREAK), tripped())


def test_a_party_that_waits_for_ever_is_found_unless_it_was_killed() -> None:
    rows = [*THREE, *came("d", "")]
    assert "d has waited, and was told nothing" in violation(rows, tripped())
    assert verdict([*rows, strike(pid=4)], tripped()).violations == ()
    assert verdict([*rows, row("gave up", "d")], tripped()).violations == ()
    assert "was told nothing" in violation([*rows, strike(T + 60_000, pid=4)], tripped())


def test_a_message_that_is_not_sent_or_twice_is_found() -> None:
    rows = [*THREE, *came("d", "", waits=False)]
    assert verdict([*rows, told("m"), told("m")], tripped(), sent("m")).violations == (), "it is handled again"
    assert "d has left a message, and 0 were sent" in violation(rows, tripped())
    assert "d has left a message, and 2 were sent" in violation([*rows, told("m")], tripped(), sent("m"), sent("m"))


def test_a_message_that_is_not_handled_or_the_wrong_one_is_found() -> None:
    rows = [*THREE, *came("d", "", waits=False)]
    assert "message m was sent, and never handled" in violation(rows, tripped(), sent("m"))
    letter = DeadLetter("1-0", b"", MUSTER, "poison", delivery_id="m")
    assert verdict(rows, tripped(), sent("m"), letters=(letter,)).violations == ()
    assert "message m says tripped=[False]" in violation([*rows, told("m", trips=False)], tripped(), sent("m"))
    assert "message n was handled, and never sent" in violation([*rows, told("m"), told("n")], tripped(), sent("m"))
