"""Eager mode where an error would leave ``send``: the outcome is recorded all the same."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from celery import Task

from orchestrator import Agent, Dead, Handled, Message, Retry, handles
from orchestrator.core.errors import InvalidMessage
from tests.apps import agents_app, execution_app


class Uncollected(Exception):
    """An error to look for."""


@pytest.fixture
def nothing_logged() -> Iterator[None]:
    """Records of logs would keep errors."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("propagates", [False, True])
def test_an_error_that_is_to_propagate_is_recorded_first(propagates: bool) -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    orchestrator.app.conf.task_eager_propagates = propagates
    retry = Retry(max_retries=2)
    if propagates:
        with pytest.raises(ValueError, match="broken"):
            orchestrator.send("worker", agents_app.Broken(), retry=retry)
        with pytest.raises(ValueError, match="broken"):
            orchestrator.send(orchestrator.app.tasks["plain.fail"].s("broken"), retry=retry)
    else:
        orchestrator.send("worker", agents_app.Broken(), retry=retry)
        orchestrator.send(orchestrator.app.tasks["plain.fail"].s("broken"), retry=retry)
    assert [letter.attempts for letter in orchestrator.dead_letters.list()] == [3, 3]
    assert [(row.accepted, row.dead, row.lost) for row in orchestrator.ledger()] == [(1, 1, 0), (1, 1, 0)]


def test_celerys_own_retry_has_one_outcome_where_errors_propagate() -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    orchestrator.app.conf.task_eager_propagates = True
    again = orchestrator.app.tasks["plain.again"]
    assert isinstance(orchestrator.send(again.s(2)).outcome(), Handled)
    with pytest.raises(ValueError, match="again"):
        orchestrator.send(again.s(9), retry=Retry(max_retries=0))
    (row,) = orchestrator.ledger()
    assert (row.accepted, row.handled, row.dead, row.lost) == (2, 1, 1, 0)


def test_many_are_all_sent_where_errors_propagate() -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    orchestrator.app.conf.task_eager_propagates = True
    messages = [agents_app.Broken(), agents_app.Add(a=1, b=2)]
    sent = orchestrator.send_many("worker", messages, retry=Retry(max_retries=0))
    assert [type(delivery.outcome()) for delivery in sent] == [Dead, Handled]


def test_a_plain_eager_task_shows_its_caller_every_error_as_celery_has_it() -> None:
    orchestrator = execution_app.make("redis://127.0.0.1:1/0", eager=True)
    hooked: Task = orchestrator.app.tasks["plain.hooked_fail"]
    with pytest.raises(RuntimeError, match="on_success"):
        hooked.delay(0)
    with pytest.raises(InvalidMessage):
        orchestrator.send(orchestrator.app.tasks["plain.catching"].s(object()))


def test_what_leaves_the_interpreter_is_no_failed_attempt() -> None:
    orchestrator = execution_app.make("redis://127.0.0.1:1/0", eager=True)
    for error in (SystemExit, KeyboardInterrupt):

        def leaves(error: type[BaseException] = error) -> None:
            raise error

        task = orchestrator.app.task(leaves, name=f"leaves.{error.__name__}", shared=False)
        with pytest.raises(error):
            orchestrator.send(task.s())


def test_a_plain_eager_task_raises_what_is_no_exception_as_it_is() -> None:
    orchestrator = execution_app.make("redis://127.0.0.1:1/0", eager=True)
    raises = orchestrator.app.tasks["plain.raises"]
    with pytest.raises(execution_app.Weird):
        raises.apply(("weird",))
    orchestrator.app.conf.task_eager_propagates = True
    with pytest.raises(execution_app.Weird):
        orchestrator.send(raises.s("weird"), retry=Retry(max_retries=0))


def test_errors_of_what_nobody_waits_for_are_not_kept(nothing_logged: None) -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    orchestrator.app.conf.task_eager_propagates = True

    class Keep(Message):
        pass

    class Keeper(Agent):
        name = "keeper"

        @handles(Keep)
        def keep(self, message: Keep) -> None:
            raise Uncollected

    orchestrator.host(Keeper)
    orchestrator.send_many("keeper", [Keep(), Keep()], retry=Retry(max_retries=0))
    for letter in orchestrator.dead_letters.list():
        orchestrator.dead_letters.replay(letter.id)
    assert orchestrator.ledger()[0].dead == 4
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is Uncollected]
