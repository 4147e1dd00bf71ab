"""What a process loads for its first message is not in the time that the message has."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time
from typing import Any

import pytest

from orchestrator import Orchestrator, Retry
from orchestrator.sending.calls import caller
from tests.apps import calls_app
from tests.apps.calls_app import Quote
from tests.support.cluster import NO_REDIS

ASKS: dict[str, Callable[[Orchestrator], Any]] = {
    "call": lambda made: made.call("billing", Quote(number=1), timeout_s=30),
    "retried call": lambda made: made.call("billing", Quote(number=1), timeout_s=30, retry=Retry()),
    "ask": lambda made: made.ask("billing", Quote(number=1), timeout_s=30).reply(),
    "ask all": lambda made: made.ask_all(["billing", "bounded"], Quote(number=1), timeout_s=30),
}


@pytest.mark.parametrize("way", ASKS)
def test_the_backend_is_loaded_before_the_time_runs(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Regression: on a busy machine the first `ask_all` of an eager app with 5 s had no reply: loading had taken 6."""
    made = calls_app.make(NO_REDIS, eager=True)
    steps: list[str] = []
    backend = made.runtime.caller._backend

    def load() -> Any:
        steps.append("backend")
        return backend()

    def read(clock: Callable[[], float]) -> float:
        steps.append("clock")
        return clock()

    monkeypatch.setattr(made.runtime.caller, "_backend", load)
    monkeypatch.setattr(caller, "time", lambda: read(time))
    monkeypatch.setattr(caller, "monotonic", lambda: read(monotonic))
    ASKS[way](made)
    assert steps.index("backend") < steps.index("clock")


SENDS: dict[str, Callable[[Orchestrator], Any]] = {
    "send": lambda made: made.send("billing", Quote(number=1), deadline_s=30),
    "many": lambda made: made.send_many("billing", [Quote(number=1)], deadline_s=30),
    "broadcast": lambda made: made.broadcast(["billing", "bounded"], Quote(number=1), deadline_s=30),
}


@pytest.mark.parametrize("way", SENDS)
def test_the_backend_is_loaded_before_a_deadline_is_set(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    made = calls_app.make(NO_REDIS, eager=True)
    steps: list[str] = []
    backend, scaled = made.runtime.sender._backend, made.runtime.directory.timeouts.scaled

    def load() -> Any:
        steps.append("backend")
        return backend()

    def scale(limit_s: float | None) -> float | None:
        # Of the deadline: the clock is read next.
        steps.append("deadline")
        return scaled(limit_s)

    monkeypatch.setattr(made.runtime.sender, "_backend", load)
    monkeypatch.setattr(type(made.runtime.directory.timeouts), "scaled", lambda _self, limit_s: scale(limit_s))
    SENDS[way](made)
    assert steps.index("backend") < steps.index("deadline")
