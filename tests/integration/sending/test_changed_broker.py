"""`broker_url` that is changed while a program runs: connections of before would go on to the old broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import Handled, InvalidSettings, Orchestrator
from tests.support.schedules_under_test import Reconcile, scheduling_app


@pytest.fixture
def orchestrator(redis_url: str) -> Iterator[Orchestrator]:
    """An app that has sent something."""
    made = scheduling_app(redis_url)
    made.send("ledgers", Reconcile())
    yield made
    made.app.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda o: o.send("ledgers", Reconcile()),
        lambda o: o.send(o.app.tasks["scheduling.poll"].s()),
        lambda o: o.ledger(),
        lambda o: o.dead_letters.count(),
        lambda o: list(o.schedules.infos()),
    ],
)
def test_the_next_use_names_the_old_and_the_new_one(orchestrator: Orchestrator, use: Callable[[Any], Any]) -> None:
    old = orchestrator.app.conf.broker_url
    orchestrator.app.conf.broker_url = "redis://:hunter2@another.example:6379/1"
    with pytest.raises(
        InvalidSettings, match=r"broker_url was changed from '.*' to '.*another\.example:6379/1'"
    ) as said:
        use(orchestrator)
    assert "hunter2" not in str(said.value)
    orchestrator.app.conf.broker_url = old
    assert orchestrator.send("ledgers", Reconcile()).id


def test_it_may_be_set_again_to_what_it_was_and_before_the_first_send(redis_url: str) -> None:
    orchestrator = scheduling_app("redis://127.0.0.1:1/0")
    assert orchestrator.agents.keys() == {"ledgers"}
    orchestrator.app.conf.broker_url = redis_url
    assert orchestrator.send("ledgers", Reconcile()).id
    orchestrator.app.conf.update(broker_url=redis_url)
    assert orchestrator.send("ledgers", Reconcile()).id
    orchestrator.app.close()


def test_eager_mode_has_no_broker(orchestrator: Orchestrator) -> None:
    orchestrator.app.conf.update(broker_url="redis://another.example:6379/1", task_always_eager=True)
    assert isinstance(orchestrator.send("ledgers", Reconcile()).outcome(), Handled)
