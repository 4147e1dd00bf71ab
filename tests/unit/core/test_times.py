"""Durations and moments have one spelling, which the command line also reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.plural import counted
from orchestrator.core.times import age, duration, moment, moment_of


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"), (0.04, "0s"), (0.44, "0.4s"), (9.94, "9.9s"), (9.99, "10s"), (42, "42s"), (59.99, "59s"),
        (60, "1m"), (90, "1m30s"), (600, "10m"), (659, "10m"), (3599, "59m"), (3600, "1h"), (5400, "1h30m"),
        (36000, "10h"), (86399, "23h"), (86400, "1d"), (172800, "2d"), (187200, "2d4h"), (40 * 86400, "40d"),
        (-3, "0s"), (float("inf"), "unknown"), (float("nan"), "unknown"),
    ],
)  # fmt: skip
def test_a_duration_is_as_precise_as_an_operator_needs(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


@given(st.floats(min_value=0, max_value=1e9))
def test_what_is_shown_as_a_duration_is_read_as_one(seconds: float) -> None:
    shown = age(seconds)
    assert age(duration(shown)) == shown
    assert abs(duration(shown) - seconds) <= max(0.06, seconds / 10)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (" 1.5 ", 1.5), ("90s", 90), ("5m", 300), ("5min", 300), ("1h30m", 5400), ("2d 4h", 187200),
     ("500ms", 0.5), ("0", 0)],
)  # fmt: skip
def test_a_duration_may_be_seconds_or_have_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "soon", "1x", "h", "1h-", "-1", "nan", "inf", "1e3", "1h nonsense"])
def test_what_is_no_duration_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; allowed: seconds, or as 500ms, 90s, 5m, 1h30m, 2d"):
        duration(text)


def test_a_moment_is_in_utc() -> None:
    assert moment(1_700_000_000_123) == "2023-11-14 22:13:20Z"
    assert moment(10**30) == f"{10**30}ms"
    assert moment_of("2023-11-14T23:13:20.123+01:00") == "2023-11-14 22:13:20Z"
    assert moment_of("2023-11-14T22:13:20") == "2023-11-14 22:13:20Z"
    assert moment_of("whenever") == "whenever"


def test_nouns_agree_with_their_numbers() -> None:
    assert [counted(n, "dead letter") for n in (0, 1, 2)] == ["0 dead letters", "1 dead letter", "2 dead letters"]
    assert counted(2, "entry", "entries") == "2 entries"
