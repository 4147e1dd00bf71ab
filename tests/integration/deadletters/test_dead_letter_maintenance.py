"""Automatic replays, expiry, export and import of dead letters: the same tests in Redis and in memory."""

from __future__ import annotations

from itertools import count

import pytest

from orchestrator.core.errors import (
    InvalidExport,
)
from orchestrator.maintenance import dead_letters
from orchestrator.maintenance.dead_letters import MaintenanceResult, RetentionPolicy
from orchestrator.telemetry import Event, events
from tests.support.dead_letter_runs import RETRYING, ids, run_maintenance
from tests.support.letters_under_test import LettersUnderTest


def test_what_is_exported_and_imported_is_the_same_byte_for_byte(bench: LettersUnderTest) -> None:
    bench.add_letter(metadata={"tags": []})
    bench.add_raw_letter(b"\xff\x00nonsense \r\n")
    bench.log.park(bench.add_letter(), "note")
    lines = list(bench.log.query(state="all").export())
    before = [letter.raw for letter in bench.log.list()]
    bench.log.purge(all=True)
    assert bench.log.import_lines(lines) == (3, 0)
    assert [letter.raw for letter in bench.log.list()] == before
    assert list(bench.log.query(state="all").export()) == lines
    assert bench.log.query(state="parked").count() == 1
    assert bench.log.import_lines(lines) == (0, 3), "imported twice"


def test_a_letter_that_is_here_is_not_imported_again(bench: LettersUnderTest) -> None:
    bench.add_letter()
    assert bench.log.import_lines(list(bench.log.query().export())) == (0, 1)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not an object"),
        ('{"id": "x"}', "is no dead letter's"),
        ('{"id": "1-1"}', "message: neither"),
        ('{"id": "1-1", "colour": 1}', "unknown: colour"),
    ],
)
def test_a_bad_line_is_named(bench: LettersUnderTest, line: str, problem: str) -> None:
    bench.add_letter()
    (good,) = bench.log.query().export()
    bench.log.purge(all=True)
    with pytest.raises(InvalidExport, match=problem) as raised:
        bench.log.import_lines([good, "", line, good])
    assert raised.value.line == 3
    assert bench.log.count() == 1
    with pytest.raises(InvalidExport):
        bench.log.import_lines([line], check_only=True)


def test_a_letter_is_retried_automatically_until_that_is_used_up_and_then_parked(
    bench: LettersUnderTest, heard: list[Event]
) -> None:
    bench.add_letter(reason="retries exhausted")
    hopeless = bench.add_letter(reason="non-retryable error")
    for number in range(3):
        assert run_maintenance(bench.log, RETRYING).replayed == 0
        bench.let_pass(60 * 2**number)
        assert run_maintenance(bench.log, RETRYING).replayed == 1
        (again,) = bench.die_again()
        assert again.lineage.auto == number + 1
    bench.let_pass(10_000)
    kept = run_maintenance(bench.log, RETRYING)
    assert (kept.replayed, kept.parked) == (0, 1), "retried beyond the maximum"
    (parked,) = bench.log.query(state="parked").page().letters
    assert parked.lineage.auto == 3
    assert "3 times" in parked.note["note"]
    assert ids(bench.log.query().page().letters) == [hopeless]
    assert events.PARKED in [event.name for event in heard]


def test_letters_of_a_full_mailbox_make_room_for_those_of_others(bench: LettersUnderTest) -> None:
    for _ in range(130):
        bench.add_letter()
    other = bench.add_letter(agent="audit", queue="audit")
    bench.bound("billing", 2)
    bench.let_pass(61)
    assert run_maintenance(bench.log, RETRYING).replayed == 3
    assert bench.log.query(agent="audit").count() == 0, f"{other} was not retried"
    assert bench.log.query().count() == 128
    (act,) = bench.log.audit()
    assert (act.kind, act.done) == ("replay", 3)
    # They are not forgotten, and what has no effect leaves no act.
    for _ in range(3):
        bench.let_pass(61)
        assert run_maintenance(bench.log, RETRYING).replayed == 0
    assert bench.log.audit() == [act]
    bench.bound("billing", 1000)
    bench.let_pass(61)
    assert run_maintenance(bench.log, RETRYING).replayed == 128
    assert bench.log.count() == 0


def test_retries_that_take_all_the_time_there_is_leave_expiry_and_length_their_share(
    bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(700):
        bench.add_letter(reason="non-retryable error")
    for _ in range(700):
        bench.add_letter()
    retention = RetentionPolicy(ttl_s=3600, max_count=1, auto_replays=3)
    assert run_maintenance(bench.log, RetentionPolicy(auto_replays=3)) == MaintenanceResult()
    bench.let_pass(7200)
    # By this clock there is time for ten steps or less.
    ticks = count()
    monkeypatch.setattr(dead_letters, "monotonic", lambda: next(ticks) / 10)
    kept = dead_letters.run_maintenance(bench.log, retention, budget_s=1)
    assert (kept.replayed > 0, kept.expired > 0, kept.trimmed > 0) == (True, True, True), kept


def test_retries_get_the_time_that_nothing_else_needs(bench: LettersUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(700):
        bench.add_letter()
    bench.let_pass(1)
    ticks = count()
    monkeypatch.setattr(dead_letters, "monotonic", lambda: next(ticks) / 100)
    assert (
        dead_letters.run_maintenance(
            bench.log, RetentionPolicy(auto_replays=3, first_replay_s=0.001), budget_s=0.5
        ).replayed
        == 700
    )
    (act,) = bench.log.audit()
    assert act.done == 700


def test_without_the_setting_nothing_is_retried_by_itself(bench: LettersUnderTest) -> None:
    bench.add_letter()
    bench.let_pass(3600)
    assert run_maintenance(bench.log, RetentionPolicy()).replayed == 0
    assert bench.log.count() == 1


def test_only_what_is_old_and_open_expires_and_that_is_said(
    bench: LettersUnderTest, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    bench.add_letter()
    parked = bench.add_letter()
    bench.log.park(parked, "keep")
    assert run_maintenance(bench.log, RetentionPolicy(ttl_s=3000)).expired == 0
    bench.let_pass(3600)
    assert run_maintenance(bench.log, RetentionPolicy(ttl_s=3000)).expired == 1
    assert run_maintenance(bench.log, RetentionPolicy(ttl_s=3000)).expired == 0
    assert ids(bench.log.list()) == [parked]
    told = [event for event in heard if event.name == events.LETTERS_EXPIRED]
    assert [(e.measurements["count"], e.metadata["reason"]) for e in told] == [(1, "age")]
    assert "expired unresolved" in caplog.text
    assert bench.log.audit(1)[0].kind == "expire"


def test_a_log_that_is_too_long_loses_its_oldest_and_says_so(bench: LettersUnderTest, heard: list[Event]) -> None:
    made = [bench.add_letter() for _ in range(10)]
    bench.log.park(made[0], "keep")
    assert run_maintenance(bench.log, RetentionPolicy(max_count=4)).trimmed == 6
    assert set(ids(bench.log.list())) == {made[0], *made[7:]}
    assert [e.metadata["reason"] for e in heard if e.name == events.LETTERS_EXPIRED] == ["length"]
    assert run_maintenance(bench.log, RetentionPolicy(max_count=4)).trimmed == 0
