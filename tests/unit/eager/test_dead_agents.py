"""An agent that a test has declared dead, in eager mode: it is down for everybody who asks."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import Agent, AgentDown, BroadcastRefused, Message, Needs, Orchestrator, Value, handles
from orchestrator.monitors.in_memory import InMemoryMonitors


class Scan(Message):
    page: int = 0


class _Reader(Agent):
    capabilities = frozenset({"ocr"})

    @handles(Scan)
    def scan(self, message: Scan) -> int:
        return message.page


class ReaderA(_Reader):
    name = "reader-a"


class ReaderB(_Reader):
    name = "reader-b"


class ReaderC(_Reader):
    name = "reader-c"


@pytest.fixture
def orchestrator() -> Orchestrator:
    app = Celery("dead", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(ReaderA, ReaderB, ReaderC)
    return orchestrator


def monitors(orchestrator: Orchestrator) -> InMemoryMonitors:
    made = orchestrator.monitors
    assert isinstance(made, InMemoryMonitors)
    return made


def test_calls_and_sends_that_want_it_alive_get_the_error_until_it_is_revived(orchestrator: Orchestrator) -> None:
    monitors(orchestrator).declare_dead("reader-a")
    with pytest.raises(AgentDown):
        orchestrator.call("reader-a", Scan(page=1), timeout_s=1)
    with pytest.raises(AgentDown):
        orchestrator.call(ReaderA, Scan(page=1), timeout_s=1)
    with pytest.raises(AgentDown):
        orchestrator.ask("reader-a", Scan(page=1), timeout_s=1)
    with pytest.raises(AgentDown):
        orchestrator.send("reader-a", Scan(page=1), when_down="error")
    with pytest.raises(AgentDown):
        orchestrator.send_many("reader-a", [Scan(page=1)], when_down="error")
    assert orchestrator.call("reader-a", Scan(page=1), timeout_s=1, fallback=[Value(5)]) == 5
    assert orchestrator.call("reader-b", Scan(page=2), timeout_s=1) == 2
    assert sum(row.accepted for row in orchestrator.ledger()) == 1
    monitors(orchestrator).revive("reader-a")
    assert orchestrator.call("reader-a", Scan(page=1), timeout_s=1) == 1


def test_a_distribution_leaves_it_out_and_nobody_finds_it(orchestrator: Orchestrator) -> None:
    monitors(orchestrator).declare_dead("reader-a")
    assert {one.name for one in orchestrator.discover("ocr")} == {"reader-b", "reader-c"}
    report = orchestrator.distribute([Scan(), Scan()], to=["reader-a", "reader-b"])
    assert (report.counts, {name: why.value for name, why in report.left_out.items()}) == (
        {"reader-b": 2},
        {"reader-a": "down"},
    )
    assert "reader-a" not in orchestrator.distribute([Scan()] * 4, to=Needs("ocr")).counts


def test_a_broadcast_and_a_hierarchy_say_that_it_is_down(orchestrator: Orchestrator) -> None:
    monitors(orchestrator).declare_dead("reader-b")
    refused = {"reader-b": "down"}
    report = orchestrator.broadcast(["reader-a", "reader-b"], Scan())
    assert {name: why.value for name, why in report.refused.items()} == refused
    with pytest.raises(BroadcastRefused):
        orchestrator.broadcast(["reader-a", "reader-b"], Scan(), strategy="all_or_nothing")
    team = orchestrator.hierarchy("team", {"reader-a": ["reader-b", "reader-c"]})
    report = team.broadcast(Scan())
    assert {name: why.value for name, why in report.refused.items()} == refused
    assert sum(row.accepted for row in orchestrator.ledger()) == 3


def test_mail_that_may_wait_for_it_is_handled_all_the_same(orchestrator: Orchestrator) -> None:
    monitors(orchestrator).declare_dead("reader-a")
    assert orchestrator.send("reader-a", Scan(page=4)).wait(timeout_s=1).result == 4  # type: ignore[union-attr]


def test_of_agents_with_equal_loads_any_may_be_the_first(orchestrator: Orchestrator) -> None:
    """Regression: it was the first one by its name, so who took the first gave all work to one agent."""
    firsts = {orchestrator.discover("ocr")[0].name for _ in range(100)}
    assert firsts == {"reader-a", "reader-b", "reader-c"}
    taken = {next(iter(orchestrator.distribute([Scan()], to=Needs("ocr")).counts)) for _ in range(100)}
    assert taken == firsts
