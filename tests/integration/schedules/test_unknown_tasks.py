"""Entries of ``beat_schedule`` for tasks that nobody has: refused at the start of a beat, or named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery.beat import Service

from orchestrator import BrokerUnavailable, InvalidSchedule
from orchestrator.registry.registry import AgentEntry
from orchestrator.schedules.beat import OrchestratorScheduler
from tests.support.schedules_under_test import Schedules, scheduling_app

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def schedules(redis_url: str) -> Iterator[Schedules]:
    """An empty Redis, and an app with the agent ``ledgers`` and the task ``scheduling.poll``."""
    made = Schedules(scheduling_app(redis_url))
    made.app.conf.result_expires = None
    yield made
    made.app.close()


def beat(app: Any, **tasks: str) -> OrchestratorScheduler:
    """A scheduler as Celery's service makes it, with an entry for each task."""
    app.conf.beat_schedule = {name: {"task": task, "schedule": 60} for name, task in tasks.items()}
    scheduler = Service(app, scheduler_cls=app.conf.beat_scheduler).get_scheduler()
    assert isinstance(scheduler, OrchestratorScheduler)
    scheduler.max_interval = 0.01
    return scheduler


def test_all_misspelt_entries_are_named_at_the_start(schedules: Schedules) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        beat(
            schedules.app,
            task="scheduling.pol",
            agent="ledger.Reconcile",
            message="ledgers.Reconcil",
            good="ledgers.Reconcile",
        )
    assert {fault.field: (fault.value, fault.nearest) for fault in refused.value.faults} == {
        "beat_schedule['task'].task": ("scheduling.pol", "scheduling.poll"),
        "beat_schedule['agent'].task": ("ledger.Reconcile", "ledgers.Reconcile"),
        "beat_schedule['message'].task": ("ledgers.Reconcil", "ledgers.Reconcile"),
    }


def test_agents_of_other_apps_are_known_by_what_their_workers_announced(schedules: Schedules) -> None:
    schedules.orchestrator.runtime.redis.registry.announce([AgentEntry("ledger", "ledger", ("Reconcile",), {})])
    beat(schedules.app, theirs="ledger.Reconcile").close()
    with pytest.raises(InvalidSchedule, match=r"'ledger.Count'.*message of agent 'ledger' \(Reconcile\)"):
        beat(schedules.app, theirs="ledger.Count")


def test_what_was_known_once_stays_when_redis_has_forgotten_the_agent(schedules: Schedules) -> None:
    schedules.orchestrator.runtime.redis.registry.announce([AgentEntry("ledger", "ledger", ("Reconcile",), {})])
    scheduler = beat(schedules.app, theirs="ledger.Reconcile")
    schedules.redis.flushdb()
    scheduler.tick()
    assert schedules.redis.hkeys(schedules.keys.schedules) == [b"theirs"]
    scheduler.close()


def test_what_is_like_nothing_known_is_sent_by_its_name_and_said(
    schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        scheduler = beat(schedules.app, theirs="reports.nightly")
    assert "has 'reports.nightly'" in caplog.text
    assert "foreign_tasks" in caplog.text
    scheduler.tick()
    assert schedules.redis.hkeys(schedules.keys.schedules) == [b"theirs"]
    assert caplog.text.count("reports.nightly") == 1
    scheduler.close()


def test_a_task_of_another_app_may_have_any_name_if_the_settings_say_so(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    orchestrator = scheduling_app(redis_url, foreign_tasks=("scheduling.pol", "reports.*"))
    with caplog.at_level(logging.WARNING):
        beat(orchestrator.app, theirs="scheduling.pol", other="reports.nightly").close()
    assert "beat_schedule" not in caplog.text
    orchestrator.app.close()


def test_a_misspelt_entry_that_is_added_while_beat_runs_is_left_out_and_said(
    schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = beat(schedules.app, good="scheduling.poll")
    scheduler.tick()
    scheduler.add(name="late", task="scheduling.pol", schedule=30)
    scheduler.add(name="later", task="scheduling.poll", schedule=30)
    scheduler.tick()
    assert set(schedules.redis.hkeys(schedules.keys.schedules)) == {b"good", b"later"}
    assert "beat_schedule['late'].task='scheduling.pol' is not allowed" in caplog.text
    scheduler.close()


def test_a_beat_that_starts_before_its_redis_leaves_mistakes_out_later(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    def messages() -> Any:
        raise BrokerUnavailable(NO_REDIS, "refused")

    with monkeypatch.context() as away:
        away.setattr(schedules.orchestrator.runtime.directory, "messages", messages)
        scheduler = beat(schedules.app, misspelt="scheduling.pol", good="scheduling.poll")
    scheduler.tick()
    assert schedules.redis.hkeys(schedules.keys.schedules) == [b"good"]
    scheduler.close()


def test_eager_mode_refuses_them_too() -> None:
    orchestrator = scheduling_app(NO_REDIS)
    orchestrator.app.conf.task_always_eager = True
    orchestrator.app.conf.beat_schedule = {"misspelt": {"task": "ledgers.Reconcil", "schedule": 60}}
    for _ in range(2):
        with pytest.raises(InvalidSchedule, match=r"did you mean 'ledgers\.Reconcile'"):
            orchestrator.schedules.advance(1)
    orchestrator.app.close()
