"""Secrets do not show."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.secrets.redact import HIDDEN, redact
from tests.support.json_data import json_data

SECRET = "hunter2-hunter2"
NAMES = ("password", "Token")
spelt = st.sampled_from(["password", "Password", "PASSWORD", "token", "TOKEN"])
hiding = json_data | st.just(SECRET)


@st.composite
def hidden_somewhere(draw: st.DrawFn) -> Any:
    """JSON data with the secret under one of the names, at any depth."""
    value: Any = {draw(spelt): draw(st.just(SECRET) | st.just([SECRET]) | st.just({"deep": {"er": SECRET}}))}
    for _ in range(draw(st.integers(0, 12))):
        around = draw(st.sampled_from(["list", "dict", "pair"]))
        if around == "list":
            value = [draw(json_data), value]
        elif around == "pair":
            value = (value, 1)
        else:
            value = {"other": draw(json_data), draw(st.text(max_size=3)) + "-": value}
    return value


@given(hidden_somewhere())
def test_a_named_field_is_hidden_at_any_depth(value: Any) -> None:
    shown = redact(value, NAMES)
    assert SECRET not in repr(shown)
    assert HIDDEN in repr(shown)


@given(json_data)
def test_without_names_nothing_changes(value: Any) -> None:
    assert repr(redact(value, ())) == repr(value)


def test_other_fields_and_other_values_stay() -> None:
    value = {"password": {"a": 1}, "passwords": "many", "list": [{"token": 5, "x": 1}], "n": None}
    assert redact(value, NAMES) == {
        "password": HIDDEN,
        "passwords": "many",
        "list": [{"token": HIDDEN, "x": 1}],
        "n": None,
    }


def test_the_original_is_left_alone() -> None:
    value = {"password": "x"}
    redact(value, NAMES)
    assert value == {"password": "x"}


def test_what_is_nested_too_deep_to_be_searched_is_hidden_as_a_whole() -> None:
    value: Any = {"password": SECRET}
    for _ in range(900):
        value = [value]
    assert SECRET not in repr(redact(value, NAMES))
