"""What operators see: `celery ledger`, and `orchestrator health --schedules`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator.cli.ledger import ledger
from orchestrator.command import main
from tests.support.command_line import invoke
from tests.support.schedules_under_test import Schedules, scheduling_app


@pytest.fixture
def schedules(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Schedules]:
    """An empty Redis, which the environment names."""
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", redis_url)
    made = Schedules(scheduling_app(redis_url))
    yield made
    made.app.close()


def test_health_says_whether_something_is_overdue(
    schedules: Schedules, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["health", "--schedules"]) == 0
    assert "0 schedules, none is overdue" in capsys.readouterr().out
    schedules.declare("nightly", due_s=30)
    assert main(["health", "--schedules"]) == 0
    monkeypatch.setenv("ORCHESTRATOR_SCHEDULER_LATE_S", "10")
    assert main(["health", "--schedules"]) == 1
    assert "schedule nightly is overdue by 30 s; allowed: 10; nobody has ever scheduled" in capsys.readouterr().err
    schedules.scheduler().tick()
    assert main(["health", "--schedules"]) == 0
    assert "1 schedule, none is overdue; fired by a" in capsys.readouterr().out


def test_health_refuses_a_setting_that_is_no_number(
    schedules: Schedules, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SCHEDULER_LATE_S", "soon")
    assert main(["health", "--schedules"]) == 2
    assert "scheduler_late_s='soon'" in capsys.readouterr().err


def test_the_ledger_shows_fires_and_fails_if_they_do_not_add_up(schedules: Schedules) -> None:
    schedules.declare("late", due_s=95, every_s=10)
    schedules.declare("missed", due_s=100, every_s=3600, misfire_grace_s=5.0)
    schedules.scheduler().tick()
    shown = invoke(schedules.app, ledger)
    assert shown.exit_code == 0, shown.output
    line = "Fires of schedules: 11 due, 1 fired, 9 coalesced, 1 missed, 0 skipped (missed: beyond grace 1)"
    assert line in shown.stdout
    document = json.loads(invoke(schedules.app, ledger, "--json").stdout)
    assert document["fires"]["due"] == 11
    assert document["balanced"]
    schedules.redis.hincrby(schedules.keys.schedule_ledger, "fired", -1)
    shown = invoke(schedules.app, ledger)
    assert shown.exit_code == 1
    assert "lost: +1" in shown.output


def test_eager_mode_lets_a_handler_own_a_schedule() -> None:
    from celery import Celery

    from orchestrator import Agent, Context, Message, Orchestrator, handles

    class Begin(Message):
        """Has it own a schedule."""

    class Refresh(Message):
        """What that sends."""

    refreshed: list[str] = []

    class Owner(Agent):
        name = "owner"

        @handles(Begin)
        def begin(self, message: Begin, context: Context) -> None:
            context.every("refresh", Refresh(), every_s=10)
            assert context.schedules.names() == ["refresh"]

        @handles(Refresh)
        def refresh(self, message: Refresh, context: Context) -> None:
            refreshed.append(str(context.scheduled_for))

    app = Celery("eager-owner", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(Owner)
    orchestrator.send("owner", Begin())
    orchestrator.schedules.advance(35)
    assert len(refreshed) == 3
