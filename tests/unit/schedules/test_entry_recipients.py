"""Which tasks of entries of ``beat_schedule`` are mistakes, and what they are taken for."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.triggers import Interval
from orchestrator.core.schedules.values import Source, TaskRecipient
from orchestrator.core.spelling.task_names import nearest_task
from orchestrator.schedules.declared.entry_recipients import EntryRecipients

AGENTS = {"billing": ("Charge", "Refund"), "eu.stock": ("Take",)}


@pytest.fixture
def app() -> Celery:
    """An app with a task of its own."""
    made = Celery("shop", set_as_current=False)

    @made.task(name="shop.tasks.poll_feed", shared=False)
    def poll_feed() -> None:
        """Do nothing."""

    made.finalize()
    return made


def entry(task: str) -> ScheduleDefinition:
    """What an entry for a task declares."""
    return ScheduleDefinition(id="entry", recipient=TaskRecipient(task), trigger=Interval(60_000), source=Source.STATIC)


@pytest.mark.parametrize(
    ("task", "near"),
    [
        ("shop.tasks.poll_fed", "shop.tasks.poll_feed"),
        ("shop.task.poll_feed", "shop.tasks.poll_feed"),
        ("tasks.poll_feed", "shop.tasks.poll_feed"),
        ("src.shop.tasks.poll_feed", "shop.tasks.poll_feed"),
        ("biling.Charge", "billing.Charge"),
        ("billing.charge", "billing.Charge"),
        ("eu.stok.Take", "eu.stock.Take"),
        ("celery.backend_clean", "celery.backend_cleanup"),
    ],
)
def test_a_misspelt_task_agent_or_message_is_named_with_the_nearest(app: Celery, task: str, near: str) -> None:
    fault = EntryRecipients(app, AGENTS, ()).fault(entry(task))
    assert fault is not None
    assert (fault.field, fault.value, fault.nearest) == ("beat_schedule['entry'].task", task, near)
    assert "setting foreign_tasks" in str(fault)


def test_a_message_that_an_agent_does_not_handle_is_a_mistake_however_it_is_called(app: Celery) -> None:
    assert str(EntryRecipients(app, AGENTS, ()).fault(entry("billing.Settle"))) == (
        "beat_schedule['entry'].task='billing.Settle' is not allowed; allowed: a message of agent 'billing' (Charge, "
        "Refund); if another app has it, its name in the setting foreign_tasks"
    )


@pytest.mark.parametrize(
    "task",
    ["shop.tasks.poll_feed", "billing.Charge", "sales.tasks.poll_feed", "shop.tasks.send_invoices", "reports.nightly"],
)
def test_what_is_known_or_like_nothing_known_is_none(app: Celery, task: str) -> None:
    assert EntryRecipients(app, AGENTS, ()).fault(entry(task)) is None


def test_what_is_said_to_be_another_apps_is_neither_a_mistake_nor_unknown(app: Celery) -> None:
    recipients = EntryRecipients(app, AGENTS, ["billing.cleanup", "feeds.*"])
    assert recipients.fault(entry("billing.cleanup")) is None
    assert recipients.unknown([entry("feeds.poll"), entry("feed.poll"), entry("feed.poll")]) == ["feed.poll"]


def test_an_app_without_tasks_knows_of_none_that_it_is_unknown() -> None:
    app = Celery("beat-alone", set_as_current=False)
    recipients = EntryRecipients(app, {}, ())
    assert recipients.unknown([entry("feeds.poll")]) == []
    assert recipients.fault(entry("feeds.poll")) is None


@pytest.mark.parametrize("name", ["", ".", "a", "a.", ".a", "é" * 600])
def test_no_name_is_too_odd_to_compare(name: str) -> None:
    assert nearest_task(name, {"shop.poll", "celery.backend_cleanup"}) == ""
