"""What a handler of eager mode holds ends with its attempt, or when its agent is declared dead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Agent, Context, Handled, LeaseTaken, Message, Orchestrator, Retry, handles
from tests.support.coordination_under_test import make


class Import(Message):
    fails: bool = False


class Nested(Message): ...


class Importer(Agent):
    name = "importer"
    retry = Retry(max_retries=1)

    @handles(Import)
    def run(self, message: Import, context: Context) -> int:
        led = context.orchestrator.election("import").campaign()
        if message.fails and context.attempt == 1:
            raise ConnectionError("not this time")
        return led.number

    @handles(Nested)
    def nested(self, message: Nested, context: Context) -> str:
        led = context.orchestrator.election("import").campaign()
        outcome = context.orchestrator.send("importer", Import(), retry=Retry(max_retries=0)).wait(1)
        led.check()
        return type(outcome).__name__


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    made = make("redis://127.0.0.1:1/0", eager=True)
    made.host(Importer)
    yield made
    made.app.close()


def result_of(orchestrator: Orchestrator, message: Message) -> Any:
    outcome = orchestrator.send("importer", message).wait(1)
    assert isinstance(outcome, Handled)
    return outcome.result


def test_a_handlers_term_ends_with_its_attempt_and_a_retry_leads_again(orchestrator: Orchestrator) -> None:
    first = result_of(orchestrator, Import())
    second = result_of(orchestrator, Import(fails=True))
    assert second > first + 1, "the attempt that failed had a term, too"
    last = orchestrator.election("import").last_term()
    assert last is not None
    assert (last.number, last.reason) == (second, "attempt ended")
    assert last.leader == "importer@eager#1"


def test_an_attempt_inside_another_ends_nothing_of_that_one(orchestrator: Orchestrator) -> None:
    assert result_of(orchestrator, Nested()) == "Dead", "the other attempt leads"


def test_an_agent_that_is_declared_dead_holds_nothing(orchestrator: Orchestrator) -> None:
    monitors: Any = orchestrator.monitors
    seen: list[str] = []

    class Dies(Agent):
        name = "dies"

        @handles(Nested)
        def nested(self, message: Nested, context: Context) -> None:
            with context.orchestrator.lease("a") as lease:
                monitors.declare_dead("dies", "oom")
                seen.append("held" if context.orchestrator.coordination.leases()[0].holders else "free")
                assert not lease.release()

    orchestrator.host(Dies)
    orchestrator.send("dies", Nested())
    assert seen == ["free"]
    with orchestrator.monitors.session():
        try:
            orchestrator.lease("a").acquire()
        except LeaseTaken:
            pytest.fail("it is held by the dead")
