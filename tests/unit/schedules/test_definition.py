"""A schedule's definition: what is refused, with which words, and that JSON keeps it as it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidSchedule
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.policy import Retry
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.definition_json import decode_definition, encode_definition
from orchestrator.core.schedules.options import define, to_datetime, to_epoch_ms
from orchestrator.core.schedules.triggers import Cron, Foreign, Interval, Once
from orchestrator.core.schedules.values import AgentRecipient, Misfire, Overlap, Source, TaskRecipient

NOW_MS = to_epoch_ms(datetime(2026, 11, 29, 12, tzinfo=UTC))
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
POLL = TaskRecipient("shop.poll", (7,))


def faults_of(schedule_id: str = "nightly", recipient: Any = POLL, **options: Any) -> dict[str, tuple[str, str]]:
    """Field -> what is allowed, and the nearest valid value."""
    with pytest.raises(InvalidSchedule) as refused:
        define(schedule_id, recipient, options, now_ms=NOW_MS)
    return {fault.field: (fault.allowed, fault.nearest) for fault in refused.value.faults}


@pytest.mark.parametrize(
    ("expression", "nearest"),
    [
        ("61 * * * *", "59 * * * *"),
        ("*/0 * * * *", "* * * * *"),
        ("*/5", "*/5 * * * *"),
        ("daily", "0 0 * * *"),
        ("0 30 2 * * *", "30 2 * * *"),
        ("30 2 * *", "30 2 * * *"),
        ("0 0 30 2 *", "0 0 28 2 *"),
        ("0 0 31 4 *", "0 0 30 4 *"),
        ("0 0 31 4,6 *", "0 0 30 4,6 *"),
        ("0 24 * * *", "0 23 * * *"),
        ("0 0 0 * *", "0 0 1 * *"),
        ("5/15 * * * *", "5-59/15 * * * *"),
        ("0 0 * fbe mno", ""),
        ("0 0 * febr *", "0 0 * 2 *"),
        ("@daily", "0 0 * * *"),
        ("@reboot", ""),
        ("٣ * * * *", ""),
        ("1,,2 * * * *", "1,0,2 * * * *"),
        ("-5 * * * *", "0-5 * * * *"),
    ],
)
def test_a_bad_cron_expression_is_refused_with_a_valid_one(expression: str, nearest: str) -> None:
    allowed, found = faults_of(cron=expression)["cron"]
    assert allowed
    if nearest:
        assert found == nearest
    if found:
        assert isinstance(define("s", POLL, {"cron": found}, now_ms=0).trigger, Cron)


@pytest.mark.parametrize("expression", ["", "every day", "*/0", "@reboot", "at three", "1 2 3 4 5 6 7"])
def test_no_expression_is_guessed_where_none_is_meant(expression: str) -> None:
    assert faults_of(cron=expression)["cron"][1] == ""


@pytest.mark.parametrize(("every_s", "nearest"), [(-3, ""), (0, ""), (0.05, "0.1"), (10**12, "")])
def test_only_an_interval_that_is_too_short_has_one_near(every_s: float, nearest: str) -> None:
    assert faults_of(every_s=every_s)["every_s"] == ("seconds from 0.1 to 315360000 (ten years)", nearest)


def test_what_says_when_is_named() -> None:
    for options, said in [
        ({}, "nothing says when"),
        ({"every_s": 5, "cron": "* * * * *"}, "cron and every_s are given"),
    ]:
        with pytest.raises(InvalidSchedule, match=f"{said}.*; allowed: exactly one of cron, every_s, at, schedule$"):
            define("s", POLL, options, now_ms=0)


def test_all_faults_are_named_at_once() -> None:
    faults = faults_of(
        "a:b", cron="61 * * * *", tz="Europe/Berln", misfire="coalescee", max_runs=0, misfire_grace_s=-1,
        start=datetime(2026, 1, 1), priority=12, metadata={"x": float("nan")},  # noqa: DTZ001
    )  # fmt: skip
    assert faults.keys() == {
        "id", "cron", "tz", "misfire", "max_runs", "misfire_grace_s", "start", "priority", "metadata"
    }  # fmt: skip
    assert faults["id"][1] == "a-b"
    assert faults["tz"][1] == "Europe/Berlin"
    assert faults["misfire"][1] == "coalesce"


@pytest.mark.parametrize("every_s", [0, -1, float("nan"), float("inf"), 0.05, True, "1", 10**12])
def test_an_interval_that_makes_no_sense_is_refused(every_s: Any) -> None:
    assert "0.1" in faults_of(every_s=every_s)["every_s"][0]


def test_options_that_contradict_each_other_are_refused() -> None:
    assert "interval" in faults_of(every_s=5, jitter_s=5)["jitter_s"][0]
    assert "after" in faults_of(every_s=5, start=NOON, end=NOON)["end"][0]
    assert "dst_gap" in faults_of(every_s=5, dst_gap="skip")
    assert faults_of(cron="* * * * *", dst_fold="third").keys() == {"dst_fold"}


def test_a_moment_needs_a_zone_and_must_not_have_passed() -> None:
    assert faults_of(at=datetime(2026, 11, 30))["at"][1] == "2026-11-30T00:00:00+00:00"  # noqa: DTZ001
    assert "60 s" in faults_of(at=datetime(2026, 11, 29, 11, tzinfo=UTC))["at"][0]
    late = define("s", POLL, {"at": datetime(2026, 11, 29, 11, tzinfo=UTC), "misfire_grace_s": 4000}, now_ms=NOW_MS)
    assert late.trigger == Once(NOW_MS - 3_600_000)


@pytest.mark.parametrize("bad", ["", "a:b", "a\nb", "x" * 101, " a", 7, "\ud800"])
def test_a_bad_id_is_refused(bad: Any) -> None:
    assert "id" in faults_of(bad, every_s=5)


def test_a_declared_schedule_may_have_any_name() -> None:
    assert define("a:b c " + "x" * 200, POLL, {"every_s": 5}, now_ms=0, source=Source.STATIC)
    with pytest.raises(InvalidSchedule):
        define("", POLL, {"every_s": 5}, now_ms=0, source=Source.STATIC)


@pytest.mark.parametrize(
    ("recipient", "field"),
    [
        (TaskRecipient("t", (object(),)), "args"),
        (TaskRecipient("", ()), "task"),
        (TaskRecipient("t", (), {"x": {1}}), "kwargs"),
        (AgentRecipient("billing", "", {}), "message"),
        ("billing", "recipient"),
    ],
)
def test_a_recipient_that_cannot_be_sent_to_is_refused(recipient: Any, field: str) -> None:
    assert field in faults_of(recipient=recipient, every_s=5)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="'jitter_s'"):
        define("s", POLL, {"every_s": 5, "jiter_s": 1}, now_ms=0)


recipients = st.one_of(
    st.builds(AgentRecipient, st.just("billing"), st.just("Charge"), st.just({"cents": 5})),
    st.builds(
        TaskRecipient, st.just("t"), st.just((1, "a")), st.just({"k": [1]}), st.just({"queue": "q"}), st.booleans()
    ),
)
triggers = st.one_of(
    st.builds(
        Cron, st.just("*/5 2-4 * * mon"), st.sampled_from(["UTC", "Europe/Berlin"]), st.sampled_from([None, "skip"])
    ),
    st.builds(Interval, st.integers(90_000_000, 10**10)),
    st.builds(Once, st.integers(0, 2 * 10**12)),
    st.builds(Foreign, st.just("solar"), st.just("sunset"), st.just(("sunset", 1.5, 2))),
)
definitions = st.builds(
    ScheduleDefinition,
    id=st.just("nightly"),
    recipient=recipients,
    trigger=triggers,
    start_ms=st.none() | st.integers(0, 10**12),
    end_ms=st.none() | st.integers(10**12 + 1, 10**13),
    max_runs=st.none() | st.integers(1, 100),
    jitter_s=st.sampled_from([0, 0.5, 60]),
    misfire=st.sampled_from(list(Misfire)),
    misfire_grace_s=st.none() | st.floats(0, 1e6),
    overlap=st.sampled_from(list(Overlap)),
    pause_on_failure=st.booleans(),
    policy=st.sampled_from([Policy(), Policy(Retry(2), timeout_s=5.0, priority=3)]),
    metadata=st.sampled_from([{}, {"job": "x"}]),
)


@given(definitions)
def test_json_keeps_a_definition(definition: ScheduleDefinition) -> None:
    text = encode_definition(definition)
    assert decode_definition("nightly", text) == definition
    assert encode_definition(decode_definition("nightly", text.encode())) == text


def test_a_usual_definition_is_short() -> None:
    recipient = AgentRecipient("billing", "Reconcile", {})
    definition = define("nightly", recipient, {"cron": "30 2 * * *", "overlap": "skip"}, now_ms=0, tz="Europe/Berlin")
    text = encode_definition(definition)
    assert json.loads(text) == {
        "v": 1, "agent": "billing", "message": "Reconcile",
        "cron": "30 2 * * *", "tz": "Europe/Berlin", "overlap": "skip",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "definition"),
        ("[]", "definition"),
        ("{", "definition"),
        ('{"v":2}', "v"),
        ('{"v":1}', "definition"),
        ('{"v":1,"task":"t","cron":"61 * * * *"}', "cron"),
        ('{"v":1,"task":"t","every_ms":5000,"new":1}', "new"),
        ('{"v":1,"task":"t","every_ms":5000,"policy":{"timeout_s":-1}}', "definition"),
        ('{"v":1,"task":7,"every_ms":5000}', "task"),
        ('{"v":1,"task":"t","foreign":[1]}', "definition"),
        ('{"v":1,"task":"t","every_ms":5000,"misfire":[]}', "misfire"),
    ],
)
def test_what_is_no_definition_is_refused_with_the_reason(text: str, field: str) -> None:
    with pytest.raises(InvalidSchedule, match="nightly") as refused:
        decode_definition("nightly", text)
    assert refused.value.faults[0].field == field


def test_an_owned_schedule_has_an_owner_and_others_have_none() -> None:
    assert define("s", POLL, {"every_s": 5}, now_ms=0, source=Source.OWNED, owner="billing@host:1#2").owner
    for source, owner in ((Source.OWNED, ""), (Source.DYNAMIC, "x")):
        with pytest.raises(InvalidSchedule, match="owner"):
            define("s", POLL, {"every_s": 5}, now_ms=0, source=source, owner=owner)


def test_only_what_needs_its_code_is_bound_to_it() -> None:
    def bound(recipient: TaskRecipient, trigger: Any) -> bool:
        return ScheduleDefinition(id="s", recipient=recipient, trigger=trigger).is_code_bound

    assert bound(POLL, Foreign("app.MySchedule", "mine"))
    assert bound(TaskRecipient("t", is_lazy=True), Interval(5000))
    assert not bound(POLL, Foreign("solar", "sunset", ("sunset", 1, 2)))
    assert not bound(POLL, Cron("* * * * *"))


@given(st.integers(0, 10**13))
def test_moments_keep_their_milliseconds(at_ms: int) -> None:
    assert to_epoch_ms(to_datetime(at_ms, "Europe/Berlin")) == at_ms
