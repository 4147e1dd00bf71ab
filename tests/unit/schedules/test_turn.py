"""When a worker that schedules in place of beat warns."""

from __future__ import annotations

import pytest

from orchestrator.schedules.firing import turn
from orchestrator.schedules.firing.due import Due
from orchestrator.schedules.firing.turn import Turn
from orchestrator.supervisor.reading.variables import BEAT_VARIABLE

#: The reply by which it is this scheduler's turn, and nobody has scheduled before.
MINE = Due(True, 0, None, "", 0, 0, 0, None, ())


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turn, "monotonic", clock)
    return clock


@pytest.mark.parametrize(("beat", "warns_after_s"), [("", 6), ("beat", 45)])
def test_it_warns_when_no_beat_has_come(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, beat: str, warns_after_s: float
) -> None:
    monkeypatch.setenv(BEAT_VARIABLE, beat)
    one = Turn("worker@h:1:a", 3.0)
    clock.now_s += warns_after_s - 0.1
    one.look(MINE)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    clock.now_s += 0.2
    one.look(MINE)
    one.look(MINE)
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "schedules in place of beat" in said
    assert ("orchestrator tree why beat" in said, "celery -A APP beat" in said) == (bool(beat), not beat)
