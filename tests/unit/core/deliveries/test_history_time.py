"""The time of an attempt's end, as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from orchestrator.core.deliveries.history import attempts_so_far, now_text
from orchestrator.core.deliveries.supervision import Supervision


@pytest.mark.parametrize("at_ns", [0, 1_764_035_662_000_000_000, 1_764_035_662_999_999_999, 4_102_444_799_007_000_001])
def test_it_is_iso_8601_to_the_millisecond(monkeypatch: pytest.MonkeyPatch, at_ns: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: at_ns)
    second, rest_ns = divmod(at_ns, 1_000_000_000)
    at = datetime.fromtimestamp(second, UTC).replace(microsecond=rest_ns // 1000)
    assert now_text() == at.isoformat(timespec="milliseconds")


@pytest.mark.parametrize("at", [1e300, float("inf"), float("nan"), -(10**30), "soon", None])
def test_a_death_at_no_time_there_is_has_none(at: object) -> None:
    (attempt,) = attempts_so_far(Supervision(), [{"at": at, "by": "w", "reason": "killed"}])
    assert (attempt.number, attempt.ended_at, attempt.how) == (1, "", "its worker died: killed")


def test_the_death_of_a_pool_process_is_not_said_to_be_its_workers() -> None:
    (attempt,) = attempts_so_far(Supervision(), [{"by": "w", "reason": "killed", "child": True}])
    assert attempt.how == "its pool process died: killed"
