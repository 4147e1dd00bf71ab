"""The judge of a chaos run finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.app import RETRY
from chaos.judge import Evidence, Verdict, judge
from chaos.strikes import plan
from chaos.witness import Row
from orchestrator.deadletters.letter import DeadLetter
from orchestrator.registry.registry import Death
from orchestrator.sending.ledger import LedgerRow

T = 1_000_000


def sent(name: str, kind: str = "plain", countdown_ms: int = 0, at_ms: int = T) -> list[Row]:
    note = {"kind": kind, "countdown_ms": countdown_ms}
    return [Row(at_ms, "intent", name, note=note), Row(at_ms + 2, "accepted", name)]


def ran(name: str, at_ms: int, end: str = "done", *, attempt: int = 1, pid: int = 7, **note: Any) -> list[Row]:
    rows = [Row(at_ms, "start", name, attempt, pid, 1, "w", note)]
    return rows + ([Row(at_ms + 5, end, name, attempt, pid, 1, "w")] if end else [])


def strike(kind: str, at_ms: int, pid: int = 7, **note: Any) -> Row:
    return Row(at_ms, "strike", pid=pid, node="w", note={"kind": kind, **note})


def letter(name: str, reason: str, deaths: int = 0, *, alone: bool = True) -> DeadLetter:
    death: dict[str, Any] = {"reason": "killed", **({"alone": True} if alone else {})}
    return DeadLetter("1-0", b"", "busy", reason, metadata={"chaos": name}, deaths=(death,) * deaths)


def verdict(
    rows: list[Row],
    letters: tuple[DeadLetter, ...] = (),
    *,
    ledger: LedgerRow | None = None,
    ended: dict[str, int] | None = None,
    **more: Any,
) -> Verdict:
    accepted = sum(row.what == "accepted" for row in rows)
    ledger = ledger or LedgerRow("busy", accepted=accepted, handled=accepted - len(letters), dead=len(letters))
    deaths = [Death(incarnation, "killed", "a sweep", at_ms) for incarnation, at_ms in (ended or {}).items()]
    return judge(Evidence(rows, [ledger], ("busy",), letters, deaths=deaths, **more))


def test_a_good_run_has_no_violation() -> None:
    rows = [*sent("a"), *ran("a", T + 10), *sent("b", countdown_ms=100), *ran("b", T + 101)]
    said = verdict(rows)
    assert said.violations == ()
    assert said.line == (
        "chaos: accepted=2 handled=2 dead=0 lost=0 early=0 duplicated=0 kills=0 per_kill=0.00 recovered=0 "
        "recovered_p99_s=- workflows=0 fires=0 grants=0 terms=0 asks=0 ballots=0 placed=0 barriers=0 lanes=0"
    )


def test_a_message_that_vanished_is_lost_and_its_life_is_told() -> None:
    rows = [*sent("a"), *ran("a", T + 10, end=""), strike("hard", T + 12, pids=[7], held=["a"], killed_ms=T + 12)]
    said = verdict(rows)
    assert said.lost == 1
    (told,) = said.violations
    assert told.startswith("lost: a (plain")
    assert "KILL hard of w (pid 7), held it" in told


def test_a_message_that_still_waits_is_pending_and_not_lost() -> None:
    said = verdict(sent("a"), ledger=LedgerRow("busy", accepted=1, ready=1), waiting={"a"})
    assert said.lost == 0
    assert any("still pending" in text for text in said.violations)


def test_an_uncertain_send_may_or_may_not_have_been_accepted() -> None:
    rows = [sent("a")[0], Row(T + 1, "uncertain", "a")]
    assert verdict(rows, ledger=LedgerRow("busy")).violations == ()
    taken = [*rows, *ran("a", T + 10)]
    assert verdict(taken, ledger=LedgerRow("busy", accepted=1, handled=1)).violations == ()
    assert verdict(taken).uncertain == 1


def test_an_early_start_is_found() -> None:
    assert verdict([*sent("a", countdown_ms=500), *ran("a", T + 400)]).early == 1
    assert verdict([*sent("a", countdown_ms=500), *ran("a", T + 460)]).early == 0


def test_an_attempt_before_its_pause_has_passed_is_early() -> None:
    pause_ms = int(RETRY.backoff.pause_s(1, 0.0) * 1000) + 100
    rows = [*sent("a", "flaky"), *ran("a", T, "fail")]
    assert verdict([*rows, *ran("a", T + 5 + pause_ms, attempt=2)]).early == 0
    third = [*rows, *ran("a", T + 5 + pause_ms, attempt=3)]
    assert verdict(third).early == 1, "an attempt after one that never failed"


def test_executions_of_one_attempt_beyond_the_first_are_duplicates() -> None:
    rows = [*sent("a"), *ran("a", T + 10), *ran("a", T + 20), *ran("a", T + 30)]
    said = verdict(rows)
    assert said.duplicated == 2
    assert said.violations == ("2 executions too many, after 0 kills",)
    assert verdict([*rows, strike("beat", T + 5)]).violations == ()
    assert verdict([*rows, strike("contender-freeze", T + 5)]).violations, "which runs no messages"


@pytest.mark.parametrize(
    ("kind", "reason", "deaths", "starts", "caused"),
    [
        ("poison", "poison", 3, 3, True),
        ("plain", "poison", 3, 3, True),
        ("plain", "poison", 3, 1, False),
        ("plain", "poison", 2, 3, False),
        ("plain", "retries exhausted", 0, 1, False),
        ("plain", "malformed", 0, 1, False),
    ],
)
def test_a_dead_letter_needs_a_cause(kind: str, reason: str, deaths: int, starts: int, caused: bool) -> None:
    rows = sent("a", kind)
    for number in range(starts):
        rows += ran("a", T + number, end="", pid=number)
    said = verdict(rows, (letter("a", reason, deaths),))
    assert (said.violations == ()) is caused


@pytest.mark.parametrize(
    ("ends", "caused"), [(["done", "done", ""], True), (["done"], False), (["fail", "done"], False)]
)
def test_a_worker_may_die_after_the_message_has_run_and_before_its_outcome_is_recorded(
    ends: list[str], caused: bool
) -> None:
    rows = sent("a", "plain")
    for number, end in enumerate(ends):
        attempt = 1 if "fail" not in ends else number + 1
        rows += ran("a", T + number, end=end, pid=number, attempt=attempt)
        rows.append(strike("worker", T + number))
    found = [text for text in verdict(rows, (letter("a", "poison", 3),)).violations if "without cause" in text]
    assert (found == []) is caused


def test_a_death_that_others_may_have_caused_convicts_nobody() -> None:
    rows = sent("a", "poison")
    for number in range(3):
        rows += ran("a", T + number, end="", pid=number)
    assert verdict(rows, (letter("a", "poison", 3, alone=False),)).violations != ()


def test_a_letter_of_a_hopeless_message_needs_all_its_attempts() -> None:
    rows = sent("a", "hopeless")
    at_ms = T
    for attempt in range(1, RETRY.max_retries + 2):
        rows += ran("a", at_ms, "fail", attempt=attempt)
        at_ms += 2000
    assert verdict(rows, (letter("a", "retries exhausted"),)).violations == ()
    assert verdict(rows[:-2], (letter("a", "retries exhausted"),)).violations != ()


def test_the_two_ledgers_must_agree() -> None:
    rows = [*sent("a"), *ran("a", T + 10)]
    assert verdict(rows, ledger=LedgerRow("busy", accepted=0)).violations
    assert verdict(rows, ledger=LedgerRow("busy", accepted=3, handled=3)).violations
    lost = verdict(rows, ledger=LedgerRow("busy", accepted=2, handled=1))
    assert lost.lost == 1
    assert any("does not balance" in text for text in lost.violations)


def test_leftovers_problems_and_workers_that_end_by_themselves_are_violations() -> None:
    fell = Row(T, "fell", pid=9, node="w", note={"exit_code": 1})
    said = verdict([fell], leftovers=["orc:dying: 1"], problems=["stuck"])
    assert said.violations == ("stuck", "w (pid 9) ended by itself with 1", "left behind: orc:dying: 1")


def test_poison_may_end_a_worker_and_counts_as_a_kill() -> None:
    rows = [*sent("a", "poison"), *ran("a", T, end="", pid=9, poison=True)]
    said = verdict([*rows, *ran("a", T + 9, end="", pid=9), Row(T, "fell", pid=9, node="w")], waiting={"a"})
    assert said.violations == ()
    assert said.kills == 1


def test_a_seed_makes_the_same_kills_and_each_kind_comes_in_turn() -> None:
    kinds = ("hard", "warm", "redis")
    strikes = plan(3, kinds, 60.0, 5.0)
    assert strikes == plan(3, kinds, 60.0, 5.0)
    assert strikes != plan(4, kinds, 60.0, 5.0)
    assert {strike.kind for strike in strikes[:3]} == set(kinds)


@pytest.mark.parametrize(
    ("downs", "refs", "right"), [(2, (1, 2), True), (2, (1, 2, 2), True), (3, (1, 2, 2), False), (3, (1, 2), False)]
)
def test_each_down_that_was_recorded_is_of_another_monitor_and_was_told(
    downs: int, refs: tuple[int, ...], right: bool
) -> None:
    rows = [Row(T + ref, "told", node="w", note={"ref": ref}) for ref in refs]
    said = verdict(rows, downs=downs)
    assert said.violations == (() if right else (f"{downs} DOWNs recorded, {len(set(refs))} handled",))


def test_what_dangles_among_the_monitors_is_a_violation() -> None:
    assert verdict([], inconsistencies=["half-written: monitor 1"]).violations == (
        "inconsistent: half-written: monitor 1",
    )


#: Long after everything that a test has happen.
LATE = T + 100_000


def watched(at_ms: int = T) -> list[Row]:
    """Somebody monitors somebody, until all monitors are ended."""
    watch = Row(at_ms, "watch", node="w", note={"ref": 1, "owner": "owner#1", "target": "target#2"})
    return [watch, Row(LATE, "unwatch")]


def down(at_ms: int, ref: int = 1) -> Row:
    return Row(at_ms, "told", node="w", note={"ref": ref, "reason": "killed"})


def test_a_monitor_whose_target_died_must_have_its_down() -> None:
    ended = {"target#2": T + 100, "owner#1": LATE + 1}
    (said,) = verdict(watched(), ended=ended).violations
    assert said == "no DOWN although its target has died and its owner lived on: monitor 1 of owner#1 on target#2"
    assert verdict([*watched(), down(T + 900)], ended=ended, downs=1).violations == ()
    letter = DeadLetter("1-0", b"", "sentry", "poison", agent="sentry", delivery_id="down-1")
    assert verdict(watched(), (letter,), ledger=LedgerRow("busy"), ended=ended, downs=1).violations == ()


@pytest.mark.parametrize(
    "ended",
    [
        {},
        {"owner#1": T + 100},
        {"target#2": T + 100},
        {"target#2": T + 100, "owner#1": T + 99},
        {"target#2": T + 100, "owner#1": T + 9_000},
        {"target#2": LATE - 5_000, "owner#1": LATE + 50_000},
        {"target#2": LATE + 5_000, "owner#1": LATE + 50_000},
    ],
)
def test_nothing_is_a_violation_where_no_down_may_have_been_due(ended: dict[str, int]) -> None:
    assert verdict(watched(), ended=ended).violations == ()


def test_a_monitor_on_somebody_who_was_dead_already_is_told_from_when_it_was_made() -> None:
    rows = watched(at_ms=T + 50_000)
    assert verdict(rows, ended={"target#2": T, "owner#1": T + 55_000}).violations == ()
    assert len(verdict(rows, ended={"target#2": T, "owner#1": T + 65_000}).violations) == 1


def test_a_down_of_somebody_who_lives_is_found() -> None:
    rows = [*watched(), down(T + 900)]
    (said,) = verdict(rows, ended={"owner#1": LATE}, downs=1).violations
    assert said == "a DOWN of a death that is not on record: monitor 1 of owner#1 on target#2"
    capped = {f"other#{n}": T for n in range(1000)}
    assert verdict(rows, ended=capped, downs=1).violations == ()
