"""The recipe of docs/monitors.md for an agent's later incarnations really runs."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from orchestrator import Down
from orchestrator.monitors.in_memory import InMemoryMonitors
from tests.apps import shop
from tests.support.eventually import eventually
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "monitors.md").read_text(encoding="utf-8")
(RECIPE,) = [part.split("```")[0] for part in PAGE.split("```python\n") if part.startswith("def watch")]


def ended_by(told: list[Down], reason: str) -> bool:
    return bool(told) and told[-1].reason == reason


def test_each_incarnation_of_an_agent_is_monitored_from_start_up() -> None:
    orchestrator = shop.make("redis://127.0.0.1:1/0")
    orchestrator.app.conf.task_always_eager = True
    monitors = orchestrator.monitors
    assert isinstance(monitors, InMemoryMonitors)
    page: dict[str, Any] = {}
    exec(RECIPE, page)
    told: list[Down] = []
    stopped = threading.Event()
    monitors.declare_dead("billing", reason="killed")
    thread = threading.Thread(target=page["watch"], args=(orchestrator, "billing", told.append, stopped))
    thread.start()
    try:
        for reason in ("oom", "killed"):
            monitors.revive("billing")
            eventually(lambda: len(list(monitors.list(target="billing"))) == 1)
            monitors.declare_dead("billing", reason=reason)
            eventually(partial(ended_by, told, reason))
    finally:
        stopped.set()
        thread.join(timeout=10)
    assert [down.reason for down in told] == ["oom", "killed"]
    assert not thread.is_alive()
