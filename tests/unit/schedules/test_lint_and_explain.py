"""What is said of a schedule's times before and after."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.lint import lint
from orchestrator.core.schedules.options import to_epoch_ms
from orchestrator.core.schedules.rule import begin, decide, pause
from orchestrator.core.schedules.state import Counts, ScheduleState
from orchestrator.core.schedules.triggers import Cron, Interval
from orchestrator.core.schedules.values import TaskRecipient
from orchestrator.schedules.explain import explain
from orchestrator.schedules.history import HistoryEntry
from orchestrator.schedules.info import ScheduleInfo

NOW_MS = to_epoch_ms(datetime(2026, 11, 29, 12, tzinfo=UTC))


def cron(expression: str, tz: str = "Europe/Berlin", **fields: Any) -> ScheduleDefinition:
    return ScheduleDefinition(id="s", recipient=TaskRecipient("t"), trigger=Cron(expression, tz), **fields)


@pytest.mark.parametrize(
    ("expression", "tz", "findings"),
    [
        ("30 4 * * *", "Europe/Berlin", {}),
        ("30 2 * * *", "UTC", {}),
        (
            "30 2 * * *",
            "Europe/Berlin",
            {
                "dst-gap": "2027-03-28 02:30 does not exist in Europe/Berlin: "
                "the schedule fires at 2027-03-28 03:00 instead (dst_gap=shift)",
                "dst-fold": "2027-10-31 02:30 comes twice in Europe/Berlin: "
                "the schedule fires at the first only (dst_fold=first)",
            },
        ),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            {
                "dst-gap": "2027-03-28 02:00, 2027-03-28 02:30 does not exist in Europe/Berlin: "
                "the schedule does not fire then (dst_gap=skip)",
                "dst-fold": "2027-10-31 02:00, 2027-10-31 02:30 comes twice in Europe/Berlin: "
                "the schedule fires at both (dst_fold=both)",
            },
        ),
        (
            "0 9 13 * fri",
            "UTC",
            {
                "day-and-weekday": "'0 9 13 * fri' has a day of month and a day of week: "
                "both must match, as in Celery; in Vixie's cron one is enough; "
                "the next times: 2027-08-13 09:00+00:00, 2028-10-13 09:00+00:00, "
                "2029-04-13 09:00+00:00, 2029-07-13 09:00+00:00, 2030-09-13 09:00+00:00"
            },
        ),
    ],
)
def test_surprises_are_found_before_they_happen(expression: str, tz: str, findings: dict[str, str]) -> None:
    assert {finding.code: finding.text for finding in lint(cron(expression, tz), NOW_MS)} == findings


def test_an_interval_has_no_surprises() -> None:
    definition = ScheduleDefinition(id="s", recipient=TaskRecipient("t"), trigger=Interval(5000))
    assert lint(definition, NOW_MS) == []


def history_of(definition: ScheduleDefinition, begin_ms: int, now_ms: int) -> tuple[ScheduleState, list[HistoryEntry]]:
    """The state and the history after a look at ``now_ms``."""
    state, found = begin(definition, begin_ms), []
    while (decision := decide(definition, state, now_ms)).state != state:
        state = decision.state
        for r in decision.records:
            found.append(
                HistoryEntry("s", r.fate, r.first_ms, r.last_ms, r.count, r.reason, r.into_ms, r.delivery_id, now_ms)
            )
    return state, found[::-1]


def explained(definition: ScheduleDefinition, at: str, *, state: ScheduleState | None = None) -> list[str]:
    begin_ms = to_epoch_ms(datetime(2026, 10, 20, tzinfo=UTC))
    now_ms = to_epoch_ms(datetime(2026, 10, 28, 12, tzinfo=UTC))
    found, history = history_of(definition, begin_ms, now_ms)
    info = ScheduleInfo("s", definition, state or found, Counts())
    return explain(info, datetime.fromisoformat(at), history, now_ms)


def test_each_moment_is_explained() -> None:
    late = cron("30 2 * * *", misfire_grace_s=3 * 86400)
    assert explained(late, "2026-10-22T02:30") == [
        "2026-10-20 02:30:00+02:00 to 2026-10-25 02:30:00+02:00 (6 times): missed: beyond grace"
    ]
    assert explained(late, "2026-10-27T02:30")[0].endswith("coalesced into 2026-10-28 02:30:00+01:00")
    (fired,) = explained(late, "2026-10-28T02:30")
    assert fired.startswith("2026-10-28 02:30:00+01:00: fired as delivery ")
    assert fired.endswith("37800 s after its time")
    assert explained(late, "2026-10-29T02:30") == ["2026-10-29 02:30:00+01:00: to be fired"]
    assert explained(late, "2026-10-29T02:31") == [
        "2026-10-29 02:31:00+01:00: not a time of this schedule; the next one is 2026-10-30 02:30:00+01:00"
    ]
    assert explained(late, "2026-10-01T02:30")[0].endswith("or older than its history")


def test_days_on_which_the_clock_is_changed_are_explained() -> None:
    twice = explained(cron("30 2 * * *"), "2026-10-25T02:30")
    assert twice[0] == "2026-10-25 02:30 comes twice in Europe/Berlin: clocks are set back then"
    assert "coalesced" in twice[1]
    assert twice[2].startswith("2026-10-25 02:30:00+01:00: not a time of this schedule")
    gap = explained(cron("30 2 * * *"), "2027-03-28T02:30")
    assert gap == [
        "2027-03-28 02:30 does not exist in Europe/Berlin: clocks go forward then, to 2027-03-28 03:00+02:00",
        "2027-03-28 03:00:00+02:00: to be fired",
    ]


def test_a_pause_and_a_refusal_are_named() -> None:
    definition = cron("30 2 * * *")
    state = begin(definition, to_epoch_ms(datetime(2026, 10, 28, tzinfo=UTC)))
    assert "no scheduler" in explained(definition, "2026-10-28T02:30", state=state)[-1]
    paused = pause(state, "release", NOW_MS).state
    assert explained(definition, "2026-10-30T02:30", state=paused)[0].endswith("while the schedule is paused: release")


def test_a_schedule_that_is_set_aside_says_why() -> None:
    info = ScheduleInfo("s", None, ScheduleState(None, None), broken="version 2")
    assert explain(info, datetime.now(UTC), [], NOW_MS) == ["set aside: version 2"]
