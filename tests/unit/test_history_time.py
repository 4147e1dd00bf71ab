"""The time of an attempt's end, as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from orchestrator.core.history import now_text


@pytest.mark.parametrize("at_ns", [0, 1_764_035_662_000_000_000, 1_764_035_662_999_999_999, 4_102_444_799_007_000_001])
def test_it_is_iso_8601_to_the_millisecond(monkeypatch: pytest.MonkeyPatch, at_ns: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: at_ns)
    second, rest_ns = divmod(at_ns, 1_000_000_000)
    at = datetime.fromtimestamp(second, UTC).replace(microsecond=rest_ns // 1000)
    assert now_text() == at.isoformat(timespec="milliseconds")
