"""Which policy applies, and from where each value comes."""

from typing import Any

import pytest

from orchestrator import Constant, Linear, OnError, Retry, WhenDown, WhenOpen, load_settings
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import InvalidPolicy, InvalidSettings
from orchestrator.core.policies.effective import Policy, impossible, merge, wasteful
from orchestrator.core.policies.timeouts import Timeouts, most_specific


def test_nobody_says_anything() -> None:
    effective = merge()
    assert (effective.retry, effective.on_error, effective.when_down) == (Retry(), OnError.DEAD_LETTER, WhenDown.QUEUE)
    assert (effective.timeout_s, effective.deadline_s, effective.priority) == (None, None, None)
    assert set(effective.sources.values()) == {"default"}


def test_each_value_comes_from_the_nearest_level_that_says_something_about_it() -> None:
    effective = merge(
        ("agent", Policy(retry=Retry(1), timeout_s=1, deadline_s=10, priority=0)),
        ("handler", Policy(retry=Retry(2), timeout_s=2)),
        ("settings", Policy(timeout_s=3)),
    ).over("send", Policy(on_error=OnError.LOG))
    assert (effective.retry, effective.timeout_s, effective.deadline_s) == (Retry(2), 3, 10)
    assert effective.priority == 0
    assert effective.sources == {
        "retry": "handler",
        "timeout_s": "settings",
        "deadline_s": "agent",
        "priority": "agent",
        "on_error": "send",
        "when_down": "default",
        "when_open": "default",
    }


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(
            Retry(7, Linear(1, 2, 3, 0.5), (), (OSError,)),
            OnError.IGNORE,
            1,
            2,
            3,
            4,
            WhenDown.ERROR,
            WhenOpen.QUEUE,
            dead_letter_expired=False,
        ),
        Policy(Retry(1, Constant(2), ("KeyError",))),
    ],
)
def test_a_policy_goes_over_the_wire_and_back(policy: Policy) -> None:
    assert Policy.from_wire({**policy.to_wire(), "unheard_of": 1}) == policy


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"retry": 3}, "retry=3"),
        ({"on_error": "explode"}, "on_error='explode'"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": "5"}, "timeout_s='5'"),
        ({"timeout_s": True}, "timeout_s=True"),
        ({"deadline_s": float("nan")}, "deadline_s=nan"),
        ({"expires_s": -1}, "expires_s=-1"),
        ({"priority": 10}, "priority=10"),
        ({"when_down": "wait"}, "when_down='wait'"),
        ({"when_open": "wait"}, "when_open='wait' is not allowed; allowed: error, queue"),
        ({"dead_letter_expired": "yes"}, "dead_letter_expired='yes'"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(said: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidPolicy, match=name):
        Policy(**said)


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("billing.Charge", "billing"), 1),
        (("billing.Refund", "billing"), 2),
        (("web.fetch", "web"), 3),
        (("web.Fast", "web"), 4),
        (("other.Thing", "other"), 5),
    ],
)
def test_the_most_specific_pattern_wins(names: tuple[str, ...], value: int) -> None:
    assert most_specific({"billing.Charge": 1, "billing": 2, "*.fetch": 3, "web.*": 4, "*": 5}, names) == value
    assert most_specific({"x.*": 1}, names) is None


def test_settings_speak_of_timeouts_and_deadlines_by_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TIMEOUTS", '{"*.fetch": 30}')
    monkeypatch.setenv("ORCHESTRATOR_TIMEOUT_FACTOR", "4")
    limits = load_settings(deadlines={"web": 60}).time_limits
    assert limits.policy("web.fetch", "web") == Policy(timeout_s=30, deadline_s=60)
    assert limits.policy("plain.fetch") == Policy(timeout_s=30)
    assert (limits.scaled(30), limits.scaled(None)) == (120, None)


@pytest.mark.parametrize("timeouts", ['{"*": 0}', '{"*": -1}', '{"*": "soon"}', "5"])
def test_bad_timeouts_are_bad_settings(timeouts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TIMEOUTS", timeouts)
    with pytest.raises(InvalidSettings, match="timeouts"):
        load_settings()


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (Policy(Retry(1), timeout_s=5), None),
        (Policy(Retry(2, Constant(1)), timeout_s=5, deadline_s=17), None),
        (Policy(Retry(0), timeout_s=5, deadline_s=5), None),
        (
            Policy(Retry(2, Constant(1)), timeout_s=5, deadline_s=16),
            "3 attempts of up to 5 s with 2 s of pauses take up",
        ),
        (Policy(Retry(2, Linear(10, 10)), deadline_s=29), "with 30 s of pauses take up to 30 s; deadline_s=29 cuts"),
    ],
)
def test_what_asks_for_more_than_can_be_had_is_said_with_its_values(policy: Policy, line: str | None) -> None:
    effective = merge(("agent", policy))
    said = wasteful(effective)
    assert len(said) == (line is not None)
    assert all(str(line) in text for text in said)
    assert impossible(effective) == []


def test_what_wastes_is_reckoned_with_times_as_they_are_enforced() -> None:
    effective = merge(("agent", Policy(Retry(2, Constant(1)), timeout_s=5, deadline_s=16)))
    # 15 s of attempts and 2 s of pauses: only the former grow with the deadline.
    assert len(wasteful(effective)) == 1
    assert wasteful(effective, factor=2) == []
    (said,) = wasteful(effective, factor=0.5)
    assert said == (
        "3 attempts of up to 2.5 s with 2 s of pauses take up to 9.5 s; deadline_s=8 cuts the last ones off"
        " (times as timeout_factor=0.5 makes them)"
    )


def test_what_can_never_be_is_told_apart_with_who_says_it() -> None:
    effective = merge(("agent", Policy(deadline_s=5)), ("settings", Policy(timeout_s=9)))
    (said,) = impossible(effective)
    assert said.startswith("timeout_s=9 (said by settings); allowed: at most deadline_s=5 (said by agent)")
    assert wasteful(effective) == []


@pytest.mark.parametrize(
    ("timeout_s", "deadline_at_s", "limit_s"), [(None, None, None), (5, None, 5), (None, 130, 30), (50, 130, 30)]
)
def test_an_attempt_may_take_its_timeout_or_what_is_left_until_the_deadline(
    timeout_s: float | None, deadline_at_s: float | None, limit_s: float | None
) -> None:
    assert Supervision(timeout_s=timeout_s, deadline_at_s=deadline_at_s).limit_s(100) == limit_s


def test_no_attempt_begins_after_the_deadline() -> None:
    supervision = Supervision(Retry(3, Constant(10)), deadline_at_s=115)
    assert supervision.pause_s(1, ("OSError",), 100).s == 10
    late = supervision.pause_s(1, ("OSError",), 106)
    assert (late.s, late.out_of_time) == (None, True)
    used_up = supervision.pause_s(4, ("OSError",), 106)
    assert (used_up.s, used_up.out_of_time) == (None, False)


def test_a_dead_letter_that_is_replayed_has_no_deadline() -> None:
    replayed = Supervision(Retry(3, Constant(10)), deadline_at_s=50, replay_of="1-0")
    assert replayed.limit_s(100) is None
    assert replayed.pause_s(1, ("OSError",), 100).s == 10


def test_a_supervision_with_limits_goes_over_the_wire_and_back() -> None:
    supervision = Supervision(timeout_s=1.5, deadline_at_s=1.7e9, dead_letter_expired=False)
    assert Supervision.from_wire(supervision.to_wire()) == supervision
    with pytest.raises(InvalidPolicy):
        Supervision.from_wire({**supervision.to_wire(), "timeout_s": "soon"})


def test_only_what_on_names_is_repeated_and_nothing_that_never_names() -> None:
    retry = Retry(on=(OSError,), never=("TimeoutError",))
    assert retry.repeats(("ConnectionError", "OSError", "Exception"))
    assert not retry.repeats(("ValueError", "Exception"))
    assert not retry.repeats(("TimeoutError", "OSError", "Exception"))
    assert Retry.from_wire(retry.to_wire()) == retry


def test_pauses_grow_as_their_kind_says() -> None:
    assert [Linear(1, 2, 6).pause_s(n, 0) for n in (1, 2, 3, 4)] == [1, 3, 5, 6]
    assert [Constant(2, jitter=0.5).pause_s(n, 0.5) for n in (1, 9)] == [1.5, 1.5]
    assert Retry(3, Linear(1, 1)).pauses_s() == 6


def test_the_factor_is_for_all() -> None:
    assert Timeouts(factor=0.5).scaled(10) == 5
