"""Whose a lease is in eager mode: the innermost of the handlers that run and the sessions that are open here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Context, Dead, Handled, LeaseTaken, Message, NoOwner, Orchestrator, handles
from orchestrator.core.errors import InvalidPolicy
from orchestrator.worker.execution.owner import checked_wait
from tests.apps import owners_app
from tests.apps.owners_app import LeaveSessionOpen, Take, TakeInSession
from tests.support.coordination_under_test import make
from tests.support.forks import in_fork


class TakeInAsyncio(Message):
    name: str


class TakeInFork(Message):
    name: str


class Relay(Message):
    name: str


class Arrive(Message): ...


class Next(Message): ...


class Watch(Message): ...


class Taker(owners_app.Taker):
    """With what cannot be told apart on real workers."""

    @handles(TakeInFork)
    def take_in_fork(self, message: TakeInFork, context: Context) -> str:
        return in_fork(lambda: context.orchestrator.lease(message.name).acquire())

    @handles(TakeInAsyncio)
    def take_in_asyncio(self, message: TakeInAsyncio, context: Context) -> list[str]:
        async def take() -> str:
            return context.orchestrator.lease(message.name).acquire().owner

        return [asyncio.run(take())]

    @handles(Relay)
    def relay(self, message: Relay, context: Context) -> list[str]:
        lease = context.orchestrator.lease(message.name).acquire()
        inner = context.orchestrator.send("taker", Take(name=f"{message.name} inner")).wait(1)
        assert isinstance(inner, Handled)
        lease.check()
        return [lease.owner, inner.result]

    @handles(Arrive)
    def arrive(self, message: Arrive, context: Context) -> None:
        context.orchestrator.barrier("all", parties=1).arrive(then=Next())

    @handles(Next)
    def go_on(self, message: Next) -> None: ...

    @handles(Watch)
    def watch(self, message: Watch, context: Context) -> str:
        monitors = context.orchestrator.monitors
        ref = monitors.monitor("taker")
        return next(entry.owner for entry in monitors.list() if entry.ref == ref)


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    made = make("redis://127.0.0.1:1/0", eager=True)

    @made.app.task(name="take", shared=False)
    def take(name: str) -> str:
        return made.lease(name).acquire().owner

    @made.app.task(name="take_in_call", shared=False)
    def take_in_call(name: str) -> str:
        return str(made.app.tasks["take"](name))

    made.host(Taker)
    yield made
    made.app.close()


def result_of(orchestrator: Orchestrator, message: Message) -> Any:
    outcome = orchestrator.send("taker", message).wait(1)
    assert isinstance(outcome, Handled), outcome
    return outcome.result


def held(orchestrator: Orchestrator) -> list[str]:
    return [holder.owner for state in orchestrator.coordination.leases() for holder in state.holders]


def test_a_handler_owns_what_it_acquires_also_where_its_sender_has_a_session_open(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session() as session:
        for _ in range(2):
            assert result_of(orchestrator, Take(name="a")) == "taker@eager#1"
            assert held(orchestrator) == [], "it ended with the attempt"
        assert orchestrator.lease("a").acquire().owner == session.id
    assert held(orchestrator) == []


def test_what_a_session_holds_is_not_its_handlers(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session(), orchestrator.lease("a"):
        outcome = orchestrator.send("taker", Take(name="a")).wait(1)
        assert isinstance(outcome, Dead)
        assert outcome.error.startswith(LeaseTaken.__name__), outcome.error


def test_a_session_that_a_handler_opens_owns_what_is_acquired_in_its_block(orchestrator: Orchestrator) -> None:
    for block in range(2):
        session, within, afterwards = result_of(orchestrator, TakeInSession(name=f"a{block}"))
        assert session == within
        assert afterwards == "taker@eager#1"
        assert held(orchestrator) == []


def test_a_session_that_a_handler_leaves_open_owns_nothing_of_the_next_message(orchestrator: Orchestrator) -> None:
    result_of(orchestrator, LeaveSessionOpen())
    with pytest.raises(NoOwner):
        orchestrator.lease("a").acquire()
    assert result_of(orchestrator, Take(name="a")) == "taker@eager#1"
    assert held(orchestrator) == []


@pytest.mark.parametrize("message", [TakeInAsyncio(name="a"), Relay(name="a")])
def test_what_a_handler_acquires_ends_with_it(orchestrator: Orchestrator, message: Message) -> None:
    with orchestrator.monitors.session():
        assert set(result_of(orchestrator, message)) == {"taker@eager#1"}
        assert held(orchestrator) == []


def test_a_barriers_message_goes_to_the_agent_whose_handler_has_arrived(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session():
        result_of(orchestrator, Arrive())
        accepted = {row.queue: row.accepted for row in orchestrator.ledger()}
    assert accepted == {"taker": 2}


def test_a_handlers_monitor_is_its_agents(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session():
        assert result_of(orchestrator, Watch()) == "taker@eager#1"


def test_a_task_owns_what_it_acquires_as_on_a_worker(orchestrator: Orchestrator) -> None:
    take, take_in_call = (orchestrator.app.tasks[name] for name in ("take", "take_in_call"))

    def owners() -> Iterator[str]:
        for task in (take, take_in_call):
            yield task.delay("a").get()
            outcome = orchestrator.send(task.s("a")).wait(1)
            assert isinstance(outcome, Handled), outcome
            yield outcome.result

    assert list(owners()) == ["celery@eager#1"] * 4
    assert held(orchestrator) == []
    with orchestrator.monitors.session() as session:
        assert list(owners()) == ["celery@eager#1"] * 4
        assert held(orchestrator) == []
        assert take("b") == session.id, "a task that is called is no message"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_owns_neither_by_its_parents_session_nor_by_its_attempt(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session() as session, orchestrator.lease("mine") as lease:
        for act in (
            lease.check,
            lambda: orchestrator.lease("b").acquire(),
            lambda: session.monitor("taker"),
            lambda: session.next_down(0),
        ):
            assert in_fork(act).startswith("NoOwner: this process was forked")
        assert in_fork(lease.release) == "False"
        lease.check()
    assert result_of(orchestrator, TakeInFork(name="a")).startswith("NoOwner: this process was forked")


@pytest.mark.parametrize("timeout_s", [True, False, float("nan"), -1, "1", None])
def test_a_wait_takes_seconds_and_nothing_else(timeout_s: Any) -> None:
    with pytest.raises(InvalidPolicy, match="timeout_s="):
        checked_wait(timeout_s)
