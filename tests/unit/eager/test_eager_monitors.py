"""Monitors in eager mode: what a handler does. The rest is in ``tests/integration/monitors/test_monitors.py``."""

from orchestrator import Handled
from tests.support.monitors_under_test import InMemoryUnderTest, Watch


def test_a_handler_makes_monitors_for_its_incarnation_and_its_agent_is_told() -> None:
    ground = InMemoryUnderTest()
    outcome = ground.orchestrator.send("watcher", Watch(target="target", tag="x")).wait(1)
    assert isinstance(outcome, Handled)
    ref = outcome.result
    (entry,) = ground.monitors.list()
    assert (entry.ref, entry.owner, entry.agent) == (ref, ground.incarnation("watcher"), "watcher")
    ground.die("target")
    assert [down.ref for down in ground.heard()] == [ref]
    (row,) = [row for row in ground.orchestrator.ledger() if row.queue == "watcher"]
    assert (row.accepted, row.handled) == (2, 2)
