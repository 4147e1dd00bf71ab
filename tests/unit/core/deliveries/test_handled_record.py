"""The record of a handled delivery, written without the values in between."""

import json
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.deliveries.history import Attempt, attempts_in, handled_record, outcome_record
from orchestrator.core.deliveries.outcome import Handled, from_wire
from orchestrator.core.deliveries.supervision import Failure, Supervision

texts = st.text(max_size=20)
failures = st.builds(Failure, st.integers(0, 9), texts, texts, texts, st.just("2026-01-01T00:00:00.000+00:00"), texts)


@given(
    st.none() | st.integers() | texts,
    st.integers(1, 9),
    st.none() | st.builds(Supervision, failures=st.lists(failures, max_size=3).map(tuple)),
    texts,
    st.none() | st.floats(0, 9),
)
def test_it_is_as_any_outcomes(
    result: object, attempts: int, supervision: Supervision | None, worker: str, runtime_s: float | None
) -> None:
    record = handled_record(result, attempts, supervision, worker, runtime_s)
    ended_at = record["history"][-1][1]
    assert datetime.fromisoformat(ended_at).tzinfo is not None
    last = Attempt(attempts, ended_at, worker, "handled", runtime_s)
    assert record == outcome_record(Handled(result, attempts), supervision, last)
    read = json.loads(json.dumps(record))
    assert from_wire(read) == Handled(result, attempts)
    assert attempts_in(read)[-1] == last
