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


def test_what_is_exported_and_imported_is_the_same_byte_for_byte(letter_log: LettersUnderTest) -> None:
    letter_log.add_letter(metadata={"tags": []})
    letter_log.add_raw_letter(b"\xff\x00nonsense \r\n")
    letter_log.log.park(letter_log.add_letter(), "note")
    lines = list(letter_log.log.query(state="all").export())
    before = [letter.raw for letter in letter_log.log.list()]
    letter_log.log.purge(all=True)
    assert letter_log.log.import_lines(lines) == (3, 0)
    assert [letter.raw for letter in letter_log.log.list()] == before
    assert list(letter_log.log.query(state="all").export()) == lines
    assert letter_log.log.query(state="parked").count() == 1
    assert letter_log.log.import_lines(lines) == (0, 3), "imported twice"


def test_a_letter_that_is_here_is_not_imported_again(letter_log: LettersUnderTest) -> None:
    letter_log.add_letter()
    assert letter_log.log.import_lines(list(letter_log.log.query().export())) == (0, 1)


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
def test_a_bad_line_is_named(letter_log: LettersUnderTest, line: str, problem: str) -> None:
    letter_log.add_letter()
    (good,) = letter_log.log.query().export()
    letter_log.log.purge(all=True)
    with pytest.raises(InvalidExport, match=problem) as raised:
        letter_log.log.import_lines([good, "", line, good])
    assert raised.value.line == 3
    assert letter_log.log.count() == 1
    with pytest.raises(InvalidExport):
        letter_log.log.import_lines([line], check_only=True)


def test_a_letter_is_retried_automatically_until_that_is_used_up_and_then_parked(
    letter_log: LettersUnderTest, heard: list[Event]
) -> None:
    letter_log.add_letter(reason="retries exhausted")
    hopeless = letter_log.add_letter(reason="non-retryable error")
    for number in range(3):
        assert run_maintenance(letter_log.log, RETRYING).replayed == 0
        letter_log.let_pass(60 * 2**number)
        assert run_maintenance(letter_log.log, RETRYING).replayed == 1
        (again,) = letter_log.die_again()
        assert again.lineage.auto == number + 1
    letter_log.let_pass(10_000)
    kept = run_maintenance(letter_log.log, RETRYING)
    assert (kept.replayed, kept.parked) == (0, 1), "retried beyond the maximum"
    (parked,) = letter_log.log.query(state="parked").page().letters
    assert parked.lineage.auto == 3
    assert "3 times" in parked.note["note"]
    assert ids(letter_log.log.query().page().letters) == [hopeless]
    assert events.PARKED in [event.name for event in heard]


def test_letters_of_a_full_mailbox_make_room_for_those_of_others(letter_log: LettersUnderTest) -> None:
    for _ in range(130):
        letter_log.add_letter()
    other = letter_log.add_letter(agent="audit", queue="audit")
    letter_log.bound("billing", 2)
    letter_log.let_pass(61)
    assert run_maintenance(letter_log.log, RETRYING).replayed == 3
    assert letter_log.log.query(agent="audit").count() == 0, f"{other} was not retried"
    assert letter_log.log.query().count() == 128
    (act,) = letter_log.log.audit()
    assert (act.kind, act.done) == ("replay", 3)
    # They are not forgotten, and what has no effect leaves no act.
    for _ in range(3):
        letter_log.let_pass(61)
        assert run_maintenance(letter_log.log, RETRYING).replayed == 0
    assert letter_log.log.audit() == [act]
    letter_log.bound("billing", 1000)
    letter_log.let_pass(61)
    assert run_maintenance(letter_log.log, RETRYING).replayed == 128
    assert letter_log.log.count() == 0


def test_retries_that_take_all_the_time_there_is_leave_expiry_and_length_their_share(
    letter_log: LettersUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(700):
        letter_log.add_letter(reason="non-retryable error")
    for _ in range(700):
        letter_log.add_letter()
    retention = RetentionPolicy(ttl_s=3600, max_count=1, auto_replays=3)
    assert run_maintenance(letter_log.log, RetentionPolicy(auto_replays=3)) == MaintenanceResult()
    letter_log.let_pass(7200)
    # By this clock there is time for ten steps or less.
    ticks = count()
    monkeypatch.setattr(dead_letters, "monotonic", lambda: next(ticks) / 10)
    kept = dead_letters.run_maintenance(letter_log.log, retention, budget_s=1)
    assert (kept.replayed > 0, kept.expired > 0, kept.trimmed > 0) == (True, True, True), kept


def test_retries_get_the_time_that_nothing_else_needs(
    letter_log: LettersUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(700):
        letter_log.add_letter()
    letter_log.let_pass(1)
    ticks = count()
    monkeypatch.setattr(dead_letters, "monotonic", lambda: next(ticks) / 100)
    assert (
        dead_letters.run_maintenance(
            letter_log.log, RetentionPolicy(auto_replays=3, first_replay_s=0.001), budget_s=0.5
        ).replayed
        == 700
    )
    (act,) = letter_log.log.audit()
    assert act.done == 700


def test_without_the_setting_nothing_is_retried_by_itself(letter_log: LettersUnderTest) -> None:
    letter_log.add_letter()
    letter_log.let_pass(3600)
    assert run_maintenance(letter_log.log, RetentionPolicy()).replayed == 0
    assert letter_log.log.count() == 1


def test_only_what_is_old_and_open_expires_and_that_is_said(
    letter_log: LettersUnderTest, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    letter_log.add_letter()
    parked = letter_log.add_letter()
    letter_log.log.park(parked, "keep")
    assert run_maintenance(letter_log.log, RetentionPolicy(ttl_s=3000)).expired == 0
    letter_log.let_pass(3600)
    assert run_maintenance(letter_log.log, RetentionPolicy(ttl_s=3000)).expired == 1
    assert run_maintenance(letter_log.log, RetentionPolicy(ttl_s=3000)).expired == 0
    assert ids(letter_log.log.list()) == [parked]
    told = [event for event in heard if event.name == events.LETTERS_EXPIRED]
    assert [(e.measurements["count"], e.metadata["reason"]) for e in told] == [(1, "age")]
    assert "expired unresolved" in caplog.text
    assert letter_log.log.audit(1)[0].kind == "expire"


def test_a_log_that_is_too_long_loses_its_oldest_and_says_so(letter_log: LettersUnderTest, heard: list[Event]) -> None:
    made = [letter_log.add_letter() for _ in range(10)]
    letter_log.log.park(made[0], "keep")
    assert run_maintenance(letter_log.log, RetentionPolicy(max_count=4)).trimmed == 6
    assert set(ids(letter_log.log.list())) == {made[0], *made[7:]}
    assert [e.metadata["reason"] for e in heard if e.name == events.LETTERS_EXPIRED] == ["length"]
    assert run_maintenance(letter_log.log, RetentionPolicy(max_count=4)).trimmed == 0
