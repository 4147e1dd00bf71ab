"""How a breaker is shown whose time is over: nobody is told that it is open for 0 more seconds."""

from __future__ import annotations

import pytest

from orchestrator import CircuitOpen
from orchestrator.core.admission.breaker import Phase, shown
from tests.apps import calls_app
from tests.apps.calls_app import Quote
from tests.support.cluster import NO_REDIS


@pytest.mark.parametrize("phase", list(Phase))
def test_only_an_open_breaker_whose_time_is_over_is_shown_otherwise(phase: Phase) -> None:
    assert shown(phase, 1) is phase
    assert shown(phase, 0) is (Phase.HALF_OPEN if phase is Phase.OPEN else phase)


def test_it_is_half_open_for_the_next_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    orchestrator = calls_app.make(NO_REDIS, eager=True)
    orchestrator.send("bounded", Quote(number=1, how="fails"), on_error="ignore")
    state = orchestrator.breakers.state("bounded")
    assert (state.phase, 59 < state.probe_in_s <= 60) == (Phase.OPEN, True)
    with pytest.raises(CircuitOpen, match=r"is open; the next probe is due in [1-9]"):
        orchestrator.send("bounded", Quote(number=1))
    monkeypatch.setattr("orchestrator.eager.flow_control._now_ms", lambda: 10**13)
    state = orchestrator.breakers.state("bounded")
    assert (state.phase, state.probe_in_s) == (Phase.HALF_OPEN, 0)
    orchestrator.send("bounded", Quote(number=1))
    assert orchestrator.breakers.state("bounded").phase is Phase.CLOSED
