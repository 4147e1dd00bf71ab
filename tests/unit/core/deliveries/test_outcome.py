"""Outcomes and their form on the wire."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.deliveries.outcome import (
    Cancelled,
    Dead,
    Expired,
    Handled,
    Outcome,
    Reason,
    from_wire,
    kind,
    to_wire,
)
from tests.support.json_data import json_data, objects

plain = json_data.filter(lambda value: "nan" not in repr(value))
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Handled, plain, st.integers(1, 1001)),
    st.builds(
        Dead, st.sampled_from(Reason).map(str), st.text(), st.integers(0, 1001), st.none() | st.just("1700000000000-0")
    ),
    st.builds(Expired),
    st.builds(Cancelled, st.text()),
)


@given(outcomes)
def test_an_outcome_comes_back_from_the_wire_as_it_went(outcome: Outcome) -> None:
    assert from_wire(json.loads(json.dumps(to_wire(outcome)))) == outcome


@given(objects("outcome", "result", "attempts", "reason", "error", "letter_id", "by") | json_data)
def test_anything_else_on_the_wire_is_refused_or_an_outcome(wire: Any) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(from_wire(wire), Handled | Dead | Expired | Cancelled)


@given(
    st.sampled_from(["handled", "dead", "expired", "cancelled"]), objects("attempts", "reason", "error", "letter_id")
)
def test_a_named_outcome_with_anything_else_in_it_is_refused_or_read(name: str, wire: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        assert kind(from_wire({**wire, "outcome": name})) == name


@pytest.mark.parametrize("wire", [{}, {"outcome": "lost"}, {"outcome": None}, {"outcome": ["dead"]}])
def test_what_is_no_outcome_says_which_there_are(wire: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed: handled, dead, expired, cancelled"):
        from_wire(wire)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [(Handled(), "handled"), (Dead("x"), "dead"), (Expired(), "expired"), (Cancelled(), "cancelled")],
)
def test_ledger_and_wire_call_an_outcome_the_same(outcome: Outcome, name: str) -> None:
    assert kind(outcome) == to_wire(outcome)["outcome"] == name


def test_what_is_missing_has_the_defaults() -> None:
    assert from_wire({"outcome": "handled"}) == Handled(None, 1)
    assert from_wire({"outcome": "dead"}) == Dead("", "", 1, None)
