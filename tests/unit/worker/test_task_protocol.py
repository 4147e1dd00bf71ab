"""Celery's task protocol 1, whose messages have no headers that could carry supervision, is refused by name."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.core.errors import InvalidSettings, NotSupervised
from tests.apps import agents_app

URL = "redis://127.0.0.1:1/0"


def test_an_app_of_protocol_1_is_refused() -> None:
    app = Celery("old", broker=URL, set_as_current=False)
    app.conf.task_protocol = 1
    orchestrator = Orchestrator(app)
    with pytest.raises(InvalidSettings, match="task_protocol=1; allowed: 2"):
        orchestrator.send(app.signature("plain"))


def test_a_send_is_refused_where_the_protocol_was_set_later() -> None:
    orchestrator = agents_app.make(URL)
    orchestrator.app.conf.task_protocol = 1
    for send in (
        lambda: orchestrator.send("worker", agents_app.Add(a=1, b=2)),
        lambda: orchestrator.send(orchestrator.app.tasks["plain.add"].s(1, 2)),
        lambda: orchestrator.send_many("worker", [agents_app.Add(a=1, b=2)]),
    ):
        with pytest.raises((InvalidSettings, NotSupervised), match="task_protocol=1; allowed: 2"):
            send()
