"""What a message's header says of its supervision."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.deliveries.supervision import HEADER, Failure, Supervision, headers_in, is_tracked
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.policy import OnError, Retry
from tests.support.json_data import json_data, objects

texts = st.text(max_size=20)
failures = st.builds(Failure, st.integers(0, 1001), texts, texts, texts, texts, texts)
metadata = st.dictionaries(texts, st.none() | st.integers() | texts | st.lists(texts, max_size=3), max_size=4)
supervisions = st.builds(
    Supervision,
    st.builds(Retry, st.integers(0, 1000)),
    st.sampled_from(OnError),
    texts,
    texts,
    metadata,
    st.lists(failures, max_size=4).map(tuple),
    st.booleans(),
    texts,
)
GOOD = Supervision().to_wire()
FIELDS = ("retry", "on_error", "agent", "message", "metadata", "failures", "track", "replay_of")


def failure(attempt: int) -> Failure:
    return Failure(attempt, "ValueError", "no", "Traceback …", "2026-01-01T00:00:00.000+00:00", "w1@host")


@given(supervisions)
def test_a_header_comes_back_from_the_wire_as_it_went(supervision: Supervision) -> None:
    assert Supervision.from_wire(json.loads(json.dumps(supervision.to_wire()))) == supervision


@given(st.one_of(supervisions, st.just(Supervision(agent="press", message="Print", timeout_s=3.0, track=False))))
def test_the_header_of_a_step_comes_back_from_the_wire_as_it_went(supervision: Supervision) -> None:
    """Steps share what is read of their headers, but not their runs."""
    for number in ("0", "1"):
        step = replace(supervision, run={"uid": "r", "id": "r", "step": number, "name": f"s{number}"})
        assert Supervision.from_wire(json.loads(json.dumps(step.to_wire()))) == step
    assert Supervision.from_wire(json.loads(json.dumps(supervision.to_wire()))).run is None


@given(supervisions, st.floats(0, 4e9) | st.none(), st.sampled_from(["", "fail"]), st.booleans())
def test_the_header_of_a_call_comes_back_from_the_wire_as_it_went(
    supervision: Supervision, deadline_at_s: float | None, on_death: str, ask: bool
) -> None:
    sent = replace(supervision, deadline_at_s=deadline_at_s or None, on_death=on_death, ask=ask)
    for _ in range(2):
        assert Supervision.from_wire(json.loads(json.dumps(sent.to_wire()))) == sent


@given(json_data | objects(*FIELDS))
def test_anything_else_is_refused_or_read(wire: Any) -> None:
    with contextlib.suppress(InvalidPolicy):
        Supervision.from_wire(wire)


@given(objects(*FIELDS[2:]))
def test_a_header_with_a_policy_and_anything_else_in_it_is_refused_or_read(wire: dict[str, Any]) -> None:
    try:
        supervision = Supervision.from_wire({**GOOD, **wire})
    except InvalidPolicy:
        pass
    else:
        json.dumps(supervision.to_wire())


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        [GOOD],
        "orc",
        5,
        {},
        {"retry": GOOD["retry"]},
        {**GOOD, "on_error": "explode"},
        {**GOOD, "on_error": []},
        {**GOOD, "retry": None},
        {**GOOD, "metadata": "ab"},
        {**GOOD, "metadata": 5},
        {**GOOD, "failures": 5},
        {**GOOD, "failures": ["no"]},
    ],
)
def test_a_header_of_the_wrong_shape_is_refused(wire: Any) -> None:
    with pytest.raises(InvalidPolicy, match=r"orc=|retry="):
        Supervision.from_wire(wire)


@given(json_data | objects("attempt", "type", "message", "traceback", "at", "by"))
def test_a_failure_is_read_whatever_is_in_it(wire: Any) -> None:
    if isinstance(wire, dict):
        assert isinstance(Failure.from_wire(wire).attempt, int)


def test_what_is_empty_takes_no_room() -> None:
    assert set(Supervision(track=False).to_wire()) == {"retry", "on_error"}


def test_the_next_attempt_knows_the_failures_before_it() -> None:
    supervision = Supervision(agent="a", metadata={"job": 1})
    later = supervision.after(failure(1)).after(failure(2))
    assert [f.attempt for f in later.failures] == [1, 2]
    assert (later.agent, later.metadata, later.retry) == ("a", {"job": 1}, supervision.retry)
    assert supervision.failures == ()


def test_of_many_failures_the_last_ten_are_remembered() -> None:
    supervision = Supervision()
    for attempt in range(1, 26):
        supervision = supervision.after(failure(attempt))
    assert [f.attempt for f in supervision.failures] == list(range(16, 26))


@pytest.mark.parametrize("message", [None, [], "x", {}, {"headers": None}, {"headers": [1]}])
def test_what_has_no_headers_has_empty_ones(message: object) -> None:
    assert headers_in(message) == {}
    assert headers_in({"headers": {"id": "x"}}) == {"id": "x"}


@pytest.mark.parametrize(
    ("headers", "tracked"),
    [
        ({HEADER: {"track": True}}, True),
        ({HEADER: {"track": False}}, False),
        ({HEADER: 5}, False),
        ({}, False),
        (7, False),
    ],
)
def test_a_message_is_tracked_if_its_header_says_so(headers: object, tracked: bool) -> None:
    assert is_tracked(headers) is tracked
