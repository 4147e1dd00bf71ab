"""Retries and backoff, as functions."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.policy import MAX_PAUSE_S, Exponential, Retry, error_names, next_pause_s
from tests.support.json_data import json_data

seconds = st.floats(0, MAX_PAUSE_S)
shares = st.floats(0, 1)
draws = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 1001)
backoffs = st.builds(Exponential, seconds, st.floats(1, 1000) | st.integers(1, 1000), seconds, shares)
retries = st.builds(Retry, st.integers(0, 1000), backoffs, st.lists(st.text(max_size=20), max_size=4).map(tuple))


class Hot(ConnectionError):
    pass


@given(backoffs, attempts, draws)
def test_a_pause_is_never_negative_and_never_above_the_cap(backoff: Exponential, attempt: int, draw: float) -> None:
    assert 0 <= backoff.pause_s(attempt, draw) <= backoff.cap_s


@given(backoffs, attempts)
def test_pauses_grow_until_the_cap(backoff: Exponential, attempt: int) -> None:
    assert backoff.pause_s(attempt, 0) <= backoff.pause_s(attempt + 1, 0)


@given(backoffs, attempts, draws)
def test_jitter_takes_away_at_most_its_share(backoff: Exponential, attempt: int, draw: float) -> None:
    whole = backoff.pause_s(attempt, 0)
    least = whole * (1 - backoff.jitter)
    assert least * (1 - 1e-9) <= backoff.pause_s(attempt, draw) <= whole


@given(st.floats(1, 1000), seconds, attempts)
def test_no_first_pause_means_no_pause_ever(factor: float, cap_s: float, attempt: int) -> None:
    assert Exponential(initial_s=0, factor=factor, cap_s=cap_s).pause_s(attempt, 0) == 0


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Exponential(initial_s=0.5, factor=2, cap_s=3, jitter=0)
    assert [backoff.pause_s(n, 0.9) for n in range(1, 6)] == [0.5, 1, 2, 3, 3]


def test_full_jitter_may_take_the_whole_pause() -> None:
    backoff = Exponential(initial_s=1, jitter=1)
    assert backoff.pause_s(1, 0) == 1
    assert backoff.pause_s(1, 0.75) == 0.25


def test_a_pause_is_drawn_anew_each_time() -> None:
    retry = Retry(max_retries=1, backoff=Exponential(initial_s=10, cap_s=10, jitter=0.5))
    pauses = {next_pause_s(retry, 1, ()) for _ in range(20)}
    assert len(pauses) > 1
    assert all(pause is not None and 5 <= pause <= 10 for pause in pauses)


@pytest.mark.parametrize(("attempt", "expected"), [(1, 0.5), (2, 1.0), (3, None), (4, None)])
def test_there_are_as_many_retries_as_allowed(attempt: int, expected: float | None) -> None:
    assert next_pause_s(Retry(max_retries=2), attempt, ("ValueError",), draw=0) == expected


def test_no_retries_means_one_attempt() -> None:
    assert next_pause_s(Retry(max_retries=0), 1, ()) is None


@pytest.mark.parametrize("never", ["Hot", "ConnectionError", "OSError", "Exception"])
def test_an_error_named_in_never_is_final_and_so_are_those_derived_from_it(never: str) -> None:
    assert next_pause_s(Retry(never=(never,)), 1, error_names(Hot())) is None


@pytest.mark.parametrize("never", [(), ("TimeoutError",), ("Connection",), ("hot",)])
def test_other_errors_are_repeated(never: tuple[str, ...]) -> None:
    assert next_pause_s(Retry(never=never), 1, error_names(Hot()), draw=0) == 0.5


@pytest.mark.parametrize("name", ["InvalidMessage", "UnknownMessage"])
def test_a_message_that_cannot_become_valid_is_not_repeated(name: str) -> None:
    assert next_pause_s(Retry(max_retries=100), 1, (name, "Exception")) is None


def test_the_names_of_an_error_are_its_classes_most_specific_first() -> None:
    assert error_names(Hot()) == ("Hot", "ConnectionError", "OSError", "Exception", "BaseException")


@given(retries)
def test_a_policy_comes_back_from_the_wire_as_it_went(retry: Retry) -> None:
    assert Retry.from_wire(json.loads(json.dumps(retry.to_wire()))) == retry


@given(json_data)
def test_anything_else_on_the_wire_is_refused_or_a_policy(wire: Any) -> None:
    try:
        retry = Retry.from_wire(wire)
    except InvalidPolicy:
        pass
    else:
        assert Retry.from_wire(retry.to_wire()) == retry


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        "n",
        {},
        {"n": 1},
        {"n": 1, "b": []},
        {"n": 1, "b": "abcd"},
        {"n": 1, "b": [1, 2, 3]},
        {"n": -1, "b": [1, 2, 3, 0]},
        {"n": True, "b": [1, 2, 3, 0]},
        {"n": 1, "b": [1, 2, 3, 2]},
        {"n": 1, "b": [1, 2, 3, 0], "x": 5},
        {"n": 1, "b": [1, 2, 3, 0], "x": [5]},
        {"n": 1, "b": [1, 2, 3, 0], "x": "ValueError"},
    ],
)
def test_a_header_that_is_no_policy_is_refused(wire: Any) -> None:
    with pytest.raises(InvalidPolicy):
        Retry.from_wire(wire)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial_s", -0.1),
        ("initial_s", math.nan),
        ("initial_s", math.inf),
        ("initial_s", "1"),
        ("initial_s", True),
        ("factor", 0.5),
        ("factor", 1001),
        ("cap_s", -1),
        ("cap_s", MAX_PAUSE_S + 1),
        ("jitter", 1.1),
        ("jitter", None),
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidPolicy, match=f"{name}=.* is not allowed; allowed: a number from"):
        Exponential(**{name: value})


@pytest.mark.parametrize("value", [-1, 1001, 1.5, "3", None, True])
def test_a_number_of_retries_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"max_retries=.*allowed: a whole number from 0 to 1000"):
        Retry(max_retries=value)


@pytest.mark.parametrize("value", ["ValueError", [ValueError("x")], (int,), None, 5])
def test_never_holds_exceptions_and_nothing_else(value: Any) -> None:
    # A mere string would be searched for parts of names.
    with pytest.raises(InvalidPolicy, match=r"never=.*allowed: .*names"):
        Retry(never=value)


def test_never_may_be_a_list() -> None:
    assert Retry(never=["ValueError"]).never == ("ValueError",)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 5, {"initial_s": 1}])
def test_a_backoff_is_an_exponential(value: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"backoff=.*allowed: an Exponential"):
        Retry(backoff=value)
