"""A recipient that changes while a scheduler runs: its next fires go by what it is then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.policy import Retry
from orchestrator.core.schedules.values import AgentRecipient, Source, TaskRecipient
from orchestrator.registry.registry import AgentEntry
from orchestrator.sending.send_options import SILENT
from tests.support.schedules_under_test import Schedules, scheduling_app

AN_AGENT: dict[str, Any] = {"recipient": AgentRecipient("payroll", "Reconcile", {"day": 1})}
AN_ENTRY = {"recipient": TaskRecipient("payroll.Reconcile"), "source": Source.STATIC, "policy": SILENT}


@pytest.fixture
def schedules(redis_url: str) -> Iterator[Schedules]:
    """An empty Redis, with a scheduler's app that does not declare the agent."""
    made = Schedules(scheduling_app(redis_url))
    yield made
    made.app.close()


def announce(schedules: Schedules, queue: str, max_retries: int, *messages: str) -> None:
    """What a worker says of its agent when it starts; a sender reads it 2 s later at most, here at once."""
    policies = {name: [Policy(retry=Retry(max_retries=max_retries)).to_wire(), {}] for name in messages}
    registry, directory = schedules.orchestrator.registry, schedules.orchestrator.runtime.directory
    registry.announce([AgentEntry("payroll", queue, messages, policies)])
    registry._read_at = float("-inf")
    directory._named_elsewhere.clear()


@pytest.mark.parametrize("fields", [AN_AGENT, AN_ENTRY], ids=["an agent's message", "an entry by its task's name"])
def test_a_fire_goes_by_the_agents_last_announcement(schedules: Schedules, fields: dict[str, Any]) -> None:
    service = schedules.scheduler()
    for queue, max_retries in (("old", 1), ("new", 7)):
        announce(schedules, queue, max_retries, "Reconcile")
        schedules.declare(f"for-{queue}", due_s=1, **fields)
        service.tick()
        (message,) = schedules.messages(queue)
        assert message["properties"]["delivery_info"]["routing_key"] == queue
        assert message["headers"]["orc"]["retry"]["n"] == max_retries


def test_what_an_agent_does_not_handle_any_more_is_not_sent(schedules: Schedules) -> None:
    service = schedules.scheduler()
    announce(schedules, "old", 1, "Reconcile")
    schedules.declare("before", due_s=1, **AN_AGENT)
    service.tick()
    announce(schedules, "old", 1, "Close")
    schedules.declare("after", due_s=1, **AN_AGENT)
    service.tick()
    assert len(schedules.messages("old")) == 1
